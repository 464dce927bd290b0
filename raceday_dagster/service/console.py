"""What becomes of the output of the parts: all of it goes to bounded log files, warnings and errors to the terminal.

Our processes write JSON lines (``logs``), and Dagster's do where they are told to (``--log-format json``); whatever
else a part prints is for its log alone. No secret reaches either.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Full, Queue
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from raceday_dagster.errors import ServiceError

LOG_BYTES = 10_000_000
LOG_FILES = 5
HIDDEN = "[hidden]"
URLS_WITH_PASSWORDS = ("DATABASE_URL", "DAGSTER_PG_URL", "LISTEN_DATABASE_URL", "BROKER_URL")
SECRET_VARIABLES = ("NZTAB_FROM_EMAIL", "NZTAB_PARTNER_ID", "VISION_API_KEY", "ALERT_WEBHOOK_URL", "SIGNAL_WEBHOOK_URL")
PASSWORD_OPTIONS = {"password", "sslpassword"}
LONGEST_NOTICE = 300
MOST_ALIKE = 5
"""Lines of one kind within ``ALIKE_FOR_S``; equal ones are shown once."""
ALIKE_FOR_S = 60.0
MOST_WAITING = 1000
LAST_LINES_WITHIN_S = 1.0
LEVELS = ("warning", "error", "critical")
SHOWN_LATER = {"http_retry", "http_gave_up", "http_client_error", "http_validation_error", "batch_race_failed"}
"""Events before and after the one that says that a race or a list has failed, and why."""
SHOWN_TOO = {"race_recovered"}
"""News at the level of information: what an error said before is over."""
_SHORTEST_SECRET = 4  # a shorter one would black out half of every line


class LogFile(RotatingFileHandler):
    """A log of at most ``LOG_FILES`` times ``LOG_BYTES``, readable by its owner only. Safe for several threads."""

    def __init__(self, path: Path, *, max_bytes: int = LOG_BYTES, files: int = LOG_FILES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, maxBytes=max_bytes, backupCount=files - 1, encoding="utf-8")

    def write(self, line: str) -> None:
        """Append one line."""
        self.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def _open(self) -> io.TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is the standard library's)
        """A full disk costs lines of the log, never the process that writes them."""


@dataclass
class _Minute:
    began_s: float
    texts: set[str] = field(default_factory=set)
    left_out: int = 0


class Console:
    """Logs the output of the parts, and shows the operator a few lines of a kind a minute; ``secrets`` are blacked out
    in both. Safe for several threads."""

    def __init__(
        self,
        logs: Path,
        say: Callable[[str], None],
        secrets: Collection[str] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logs = logs
        self._say = say
        self._is_mute = False
        self._open_logs: dict[str, LogFile] = {}
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._minutes: dict[tuple[str, str], _Minute] = {}

    def open_log(self, part: str) -> Callable[[str], None]:
        """What takes each line of a part. Raises ``ServiceError``: its log cannot be written."""
        if part not in self._open_logs:
            try:
                self._open_logs[part] = LogFile(self._logs / f"{part}.log")
            except OSError as error:
                raise ServiceError(f"{error.filename or self._logs} cannot be used: {error.strerror}") from error
        return partial(self._take, part, self._open_logs[part])

    def close(self) -> None:
        """Close the logs."""
        for log in self._open_logs.values():
            log.close()

    def mute(self) -> None:
        """Only log from now on: what breaks because the service ends is no news."""
        self._is_mute = True

    def close_minutes(self) -> None:
        """Count what was left out in minutes that are over; to be called again and again."""
        with self._lock:
            now_s = self._monotonic()
            for key in [key for key, minute in self._minutes.items() if now_s - minute.began_s >= ALIKE_FOR_S]:
                part, kind = key
                if left_out := self._minutes.pop(key).left_out:
                    self._say(f"{part}: … and {left_out} more {kind} in the last minute (logs/{part}.log)")

    def _take(self, part: str, log: LogFile, line: str) -> None:
        line = line.rstrip("\r\n")
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        log.write(line)
        if (notice := read_notice(line)) and not self._is_mute:
            self.close_minutes()
            with self._lock:
                self._show(part, *notice)

    def _show(self, part: str, kind: str, text: str) -> None:
        minute = self._minutes.setdefault((part, kind), _Minute(self._monotonic()))
        if text not in minute.texts and len(minute.texts) < MOST_ALIKE:
            minute.texts.add(text)
            self._say(f"{part}: {text}")
        else:
            minute.left_out += 1


def read_notice(line: str) -> tuple[str, str] | None:
    """What an operator should see of a line, after its kind: lines of a kind are alike. ``None`` for what only the log
    needs."""
    if line.startswith("Error: "):  # a command of ours, or our storage, says why it ends
        return ("Error", shorten(f"ERROR {line.removeprefix('Error: ')}"))
    if not line.startswith('{"event"'):
        return None
    try:
        fields = json.loads(line)
        event, level = str(fields.pop("event")), str(fields.pop("level", ""))
    except (ValueError, AttributeError):
        return None  # two processes wrote into one line
    if event not in SHOWN_TOO and (level not in LEVELS or event in SHOWN_LATER):
        return None
    if (logger := fields.get("logger")) is None:
        rest = " ".join(f"{name}={value}" for name, value in fields.items() if name != "time")
        return (event, shorten(f"{level.upper()} {event} {rest}".rstrip()))
    if level == "warning":
        return None  # Dagster's own are for its developers
    exception = fields.get("exc_info")  # type, value and traceback, as texts
    text = f"{event.rstrip(' .:')}: {exception[1]}" if isinstance(exception, list) else event
    return (f"{level.upper()} {logger}", shorten(f"{level.upper()} {text}"))


def shorten(text: str) -> str:
    """One line for a terminal, which what an API sent must not steer."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= LONGEST_NOTICE else f"{text[: LONGEST_NOTICE - 1]}…"


def find_secrets(environment: dict[str, str]) -> set[str]:
    """Passwords of the URLs of databases and broker, whole and each part that somebody who splits a decoded URL may
    take for a host, as written, decoded, encoded and in JSON; the identity shown to the API, the vision API's key, the
    webhooks.

    Args:
        environment: With URLs that ``Settings`` accepts: the only ``@`` ends the password.
    """
    known = {environment.get(name, "").strip() for name in SECRET_VARIABLES}
    for name in URLS_WITH_PASSWORDS:
        credentials, _, location = environment.get(name, "").partition("://")[2].rpartition("@")
        options = [option.partition("=") for option in location.partition("?")[2].split("&")]
        written = {credentials.partition(":")[2], *(value for key, _, value in options if key in PASSWORD_OPTIONS)}
        decoded = {decode(password) for password in written for decode in (unquote, unquote_plus)}
        parts = decoded | {part for password in decoded for part in re.split(r"[@:/?#\[\]]", password)}
        known |= written | parts | {encode(part, safe="") for part in parts for encode in (quote, quote_plus)}
    return {text for secret in known if len(secret) >= _SHORTEST_SECRET for text in (secret, json.dumps(secret)[1:-1])}


@contextmanager
def printing_to(descriptor: int, encoding: str) -> Iterator[Callable[[str], None]]:
    """A function that prints one line to an open file after the time, without waiting, and from any thread.

    A thread does the printing: a terminal that stands still (Ctrl-S, a full pipe) would hold up the supervisor, or the
    reader of a part's output and so the part. What the encoding lacks is escaped. Lines are lost that the file cannot
    take, or that are too many by then.
    """
    lines: Queue[str | None] = Queue(MOST_WAITING)

    def say(line: str) -> None:
        with suppress(Full):
            lines.put_nowait(f"{datetime.now().astimezone():%H:%M:%S} {line}")

    def print_lines() -> None:
        while (line := lines.get()) is not None:
            left = f"{line}\n".encode(encoding, "backslashreplace")
            with suppress(OSError):  # the terminal may be gone; the service goes on
                # Not through a stream: at the end the interpreter would wait for its lock.
                while left:
                    left = left[os.write(descriptor, left) :]

    printer = threading.Thread(target=print_lines, name="terminal", daemon=True)
    printer.start()
    try:
        yield say
    finally:
        with suppress(Full):
            lines.put_nowait(None)
            printer.join(LAST_LINES_WITHIN_S)
