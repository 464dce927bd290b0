"""What becomes of a child's output: all of it goes to a bounded log file, what an operator must see to the terminal.

Ours are JSON lines (``logs``); Dagster's are text with a level in it, and tracebacks, which stay in the file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LOG_BYTES = 10_000_000
LOG_FILES = 5
LONGEST_ECHO = 300
SHOWN_LEVELS = {"warning", "error", "critical"}
HIDDEN = "[hidden]"
_SHORTEST_SECRET = 4  # a shorter one would black out half of every line
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DAGSTER_ERROR = re.compile(r" - (ERROR|CRITICAL) - (.*)")
_SAID_APART = {"event", "level", "time"}


class LogFile(RotatingFileHandler):
    """A log of at most ``LOG_FILES`` times ``LOG_BYTES``. Safe for several threads."""

    def __init__(self, path: Path, *, max_bytes: int = LOG_BYTES, files: int = LOG_FILES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name_shown = f"{path.parent.name}/{path.name}"
        super().__init__(path, maxBytes=max_bytes, backupCount=files - 1, encoding="utf-8")

    def write(self, line: str) -> None:
        """Append one line."""
        self.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is the standard library's)
        """A full disk costs lines of the log, never the process that writes them."""


class ChildOutput:
    """Takes the lines of one part of the service.

    Args:
        name: The part, as the terminal shows it.
        log: Where every line goes.
        say: Prints one line on the terminal.
        secrets: Texts that are blacked out everywhere.
    """

    def __init__(self, name: str, log: LogFile, say: Callable[[str], None], secrets: Collection[str] = ()) -> None:
        self.name = name
        self.log = log
        self._say = say
        self._secrets = sorted(secrets, key=len, reverse=True)

    def take(self, line: str) -> None:
        """Log a line, and show it if it is a warning or worse."""
        line = _COLOUR.sub("", line.rstrip("\r\n"))
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        self.log.write(line)
        shown = describe_line(line)
        if shown is not None:
            where = "" if line.startswith("{") else f" (more in {self.log.name_shown})"
            self._say(f"{self.name}: {shown}{where}")


def describe_line(line: str) -> str | None:
    """One readable line for the terminal, or ``None`` for what only the log needs."""
    if line.startswith('{"event"'):
        return _describe_own(line)
    found = _DAGSTER_ERROR.search(line)
    return _shorten(f"{found[1]} {found[2]}") if found else None


def _describe_own(line: str) -> str | None:
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        return None  # two processes wrote into one line
    level = str(fields.get("level"))
    if level not in SHOWN_LEVELS:
        return None
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _SAID_APART)
    return _shorten(f"{level.upper()} {fields['event']} {rest}".rstrip())


def _shorten(text: str) -> str:
    text = _UNPRINTABLE.sub(" ", text.replace("\n", " "))  # what an API sent must not steer the terminal
    return text if len(text) <= LONGEST_ECHO else f"{text[: LONGEST_ECHO - 1]}…"


def find_secrets(environment: dict[str, str]) -> set[str]:
    """Passwords of the database URLs, as written and decoded, and the identity shown to the API."""
    passwords = [urlsplit(environment.get(name, "")).password for name in ("DATABASE_URL", "DAGSTER_PG_URL")]
    identity = [environment.get(f"NZTAB_{name}", "") for name in ("FROM_EMAIL", "PARTNER_ID")]
    known = {text for password in passwords if password for text in (password, unquote(password))} | set(identity)
    return {text for text in known if len(text) >= _SHORTEST_SECRET}
