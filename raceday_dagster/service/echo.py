"""Which lines of a child an operator sees, and how often.

Ours are JSON lines (``logs``); Dagster's are text with a level in it, and what caused them comes in the lines below.
Left out is what only repeats: tries before a failure that has a line of its own, Dagster's report of an error that we
reported, and, of lines that are alike, all but a few a minute; those are counted.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

LONGEST_ECHO = 300
MOST_ALIKE = 5
"""Lines of a kind within ``ALIKE_FOR_S``; equal ones are shown once."""
ALIKE_FOR_S = 60.0
CAUSE_WITHIN_S = 0.5
SHOWN_LEVELS = {"warning", "error", "critical"}
ON_THE_WAY = {"http_retry", "http_gave_up", "http_client_error", "http_validation_error", "batch_race_failed"}
"""Events before and after the one that says that a race or a list has failed, and why."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DATED = re.compile(r"\d{4}-\S+ \S+ \S+ - (?P<logger>\S+) - (?P<level>[A-Z]+) - (?P<text>.*)")
_OUR_LOGGERS = re.compile(r"dagster\.(code_server|run_coordinator\.\w+)")
# Before Dagster has set up its logging, a warning is its text alone.
_BARE_WARNING = re.compile(r".*\brun workers start in new interpreters\b")
_REPEATED = re.compile(
    r"RUN_CANCELED - |RUN_FAILURE - .*Steps failed: |- Dependencies for step \S+ failed: |"
    r"- Race \S+ failed in |- Not over two hours after the start: "
)
_SUMMARY = re.compile(r"\d+ of \d+ races failed ")
_CAUSE = re.compile(r"(?=\S*[a-z])(?:\w+\.)*(?P<cause>[A-Za-z_]\w*: .+)")
_NUMBER = re.compile(r"\b[0-9a-f]{8}[0-9a-f_-]+|\d+")


@dataclass(frozen=True)
class Notice:
    """What a line says to the operator."""

    kind: str
    """Equal for lines that are alike."""
    text: str
    reason: str = ""
    """Of one of our errors, as Dagster repeats it."""
    is_ours: bool = True


@dataclass
class _Alike:
    began_s: float
    texts: set[str] = field(default_factory=set)
    left_out: int = 0


def start_timer(delay_s: float, call: Callable[[], None]) -> None:
    """Calls later, from a thread of its own that holds up no end."""
    timer = threading.Timer(delay_s, call)
    timer.daemon = True
    timer.start()


class Echo:
    """Shows the lines of one part. Safe for several threads.

    Args:
        say: Prints one line.
        log_name: The file that has everything.
        monotonic: Clock, seconds.
        later: Calls a function after some seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        log_name: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = start_timer,
    ) -> None:
        self._say = say
        self._log_name = log_name
        self._monotonic = monotonic
        self._later = later
        self._lock = threading.Lock()
        self._pending: Notice | None = None
        self._reasons: deque[str] = deque(maxlen=50)
        self._alike: dict[str, _Alike] = {}

    def take(self, line: str) -> None:
        """Look at the next line."""
        with self._lock:
            if self._pending is not None and not begins_entry(line):
                # The last one is the deepest, but a Failure has what we say of it.
                if not self._pending.reason.startswith("Failure: ") and (found := _CAUSE.match(line)):
                    self._pending = replace(self._pending, reason=found["cause"])
                return
            self._show_pending()
            notice = read_notice(line)
            if notice is None:
                return
            if notice.is_ours:
                self._reasons.extend([notice.reason] if notice.reason else [])
                self._show(notice.kind, notice.text)
            else:
                self._pending = notice
                self._later(CAUSE_WITHIN_S, self.settle)

    def settle(self) -> None:
        """Show what waited for its cause, and count what was left out in minutes that are over."""
        with self._lock:
            self._show_pending()
            self._close_minutes(self._monotonic())

    def _show_pending(self) -> None:
        notice, self._pending = self._pending, None
        if notice is None or _SUMMARY.search(notice.reason) or any(told in notice.reason for told in self._reasons):
            return
        text = f"{notice.text.rstrip(' .:')}: {notice.reason}" if notice.reason else notice.text
        self._show(notice.kind, f"{shorten(text)} (more in {self._log_name})")

    def _show(self, kind: str, text: str) -> None:
        now_s = self._monotonic()
        self._close_minutes(now_s)
        if kind not in self._alike:
            self._alike[kind] = _Alike(now_s)
            self._later(ALIKE_FOR_S, self.settle)
        alike = self._alike[kind]
        if text not in alike.texts and len(alike.texts) < MOST_ALIKE:
            alike.texts.add(text)
            self._say(text)
        else:
            alike.left_out += 1

    def _close_minutes(self, now_s: float) -> None:
        for kind in [kind for kind, alike in self._alike.items() if now_s - alike.began_s >= ALIKE_FOR_S]:
            if left_out := self._alike.pop(kind).left_out:
                self._say(f"… and {left_out} more {kind} in the last minute ({self._log_name})")


def begins_entry(line: str) -> bool:
    """Whether a line is not one of those below an error that explain it."""
    return line.startswith('{"event"') or _DATED.match(line) is not None


def read_notice(line: str) -> Notice | None:
    """What an operator should see of a line, ``None`` for what only the log needs."""
    if line.startswith('{"event"'):
        return _read_own(line)
    if line.startswith("Error: "):
        return Notice("Error", shorten(f"ERROR {line.removeprefix('Error: ')}"))
    if _BARE_WARNING.match(line) and not _DATED.match(line):
        return Notice("WARNING", shorten(f"WARNING {line}"))
    found = _DATED.match(line)
    if found is None or _REPEATED.search(found["text"]):
        return None
    level, text = found["level"], found["text"]
    if level not in {"ERROR", "CRITICAL"} and not (level == "WARNING" and _OUR_LOGGERS.fullmatch(found["logger"])):
        return None
    return Notice(_NUMBER.sub("#", f"{level} {text}")[:100].rstrip(" .:"), shorten(f"{level} {text}"), is_ours=False)


def shorten(text: str) -> str:
    """One line for a terminal, which what an API sent must not steer."""
    text = _UNPRINTABLE.sub(" ", text.replace("\n", " "))
    return text if len(text) <= LONGEST_ECHO else f"{text[: LONGEST_ECHO - 1]}…"


def _read_own(line: str) -> Notice | None:
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        return None  # two processes wrote into one line
    event, level = str(fields.pop("event")), str(fields.pop("level", None))
    if level not in SHOWN_LEVELS or event in ON_THE_WAY:
        return None
    error = fields.get("error", "")
    reason = error.get("message", "") if isinstance(error, dict) else error
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if name != "time")
    return Notice(event, shorten(f"{level.upper()} {event} {rest}".rstrip()), str(reason))
