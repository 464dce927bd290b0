"""One JSON object a line on standard error, ``event`` first: the only way this package logs.

Nothing is configured globally: a program that imports us keeps its own logging.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger


def _event_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {"event": line.pop("event"), **line}


class _StandardError:
    """Writes to whatever ``sys.stderr`` is at the moment, in one call: lines of threads never mix.

    A line that nobody reads any more, or that finds the disk full, is lost and fails nobody.
    """

    def msg(self, line: str) -> None:
        stream: TextIO = sys.stderr
        with suppress(OSError):
            stream.write(line + "\n")
            stream.flush()

    debug = info = warning = error = critical = log = msg


def get_logger(**bound: Any) -> FilteringBoundLogger:
    """A logger whose every line carries ``bound`` (``race_id``, ``run_id`` …), the time (ISO, UTC) and the level."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _StandardError(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _event_first,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=False,
        **bound,
    )
    return logger
