"""What becomes of a child's output: without its secrets all of it goes to a bounded log file, and some to the terminal.

Which lines an operator sees: ``echo``.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Collection
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import unquote, unquote_plus, urlsplit

from raceday_dagster.service.echo import Echo

LOG_BYTES = 10_000_000
LOG_FILES = 5
HIDDEN = "[hidden]"
_SHORTEST_SECRET = 4  # a shorter one would black out half of every line
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PASSWORD = re.compile(r"(?:^|&)(?:ssl)?password=([^&]*)")


class LogFile(RotatingFileHandler):
    """A log of at most ``LOG_FILES`` times ``LOG_BYTES``, readable by its owner only. Safe for several threads."""

    def __init__(self, path: Path, *, max_bytes: int = LOG_BYTES, files: int = LOG_FILES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name_shown = f"{path.parent.name}/{path.name}"
        super().__init__(path, maxBytes=max_bytes, backupCount=files - 1, encoding="utf-8")

    def write(self, line: str) -> None:
        """Append one line."""
        self.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def _open(self) -> io.TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600))

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
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._echo = Echo(lambda text: say(f"{name}: {text}"), log.name_shown)

    def take(self, line: str) -> None:
        """Log a line, and show it if the operator should see it."""
        line = _COLOUR.sub("", line.rstrip("\r\n"))
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        self.log.write(line)
        self._echo.take(line)


def find_secrets(environment: dict[str, str]) -> set[str]:
    """Passwords of the database URLs, as written and decoded, and the identity shown to the API."""
    known = {environment.get(f"NZTAB_{name}", "") for name in ("FROM_EMAIL", "PARTNER_ID")}
    for name in ("DATABASE_URL", "DAGSTER_PG_URL"):
        url = urlsplit(environment.get(name, ""))
        written = [url.password or "", *_PASSWORD.findall(url.query)]
        known |= {text for password in written for text in (password, unquote(password), unquote_plus(password))}
    return {text for text in known if len(text) >= _SHORTEST_SECRET}
