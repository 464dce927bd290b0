"""One JSON object a line on standard error, ``event`` first: the only way this package logs.

Nothing is configured globally: a program that imports us keeps its own logging.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from raceday_dagster.settings import read_log_level

_of_process: dict[str, str] = {}


def _event_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {"event": line.pop("event"), **line}


def _add_process_fields(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {**_of_process, **line}


@contextmanager
def adding_to_every_line(**fields: str) -> Iterator[None]:
    """Until the end, every line of this process carries these fields, those of its other threads included.

    A run is a process of its own, and its HTTP client and its workers do not know its id. A field that a logger is
    bound to comes before one of the same name.
    """
    before = dict(_of_process)
    _of_process.update(fields)
    try:
        yield
    finally:
        _of_process.clear()
        _of_process.update(before)


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
    """A logger whose every line carries ``bound`` (``race_id``, ``run_id`` …), the time (ISO, UTC) and the level.

    Lines below ``LOG_LEVEL``, as it is when the logger is made, are not written.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _StandardError(),
        processors=[
            _add_process_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _event_first,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(read_log_level()),
        cache_logger_on_first_use=False,
        **bound,
    )
    return logger
