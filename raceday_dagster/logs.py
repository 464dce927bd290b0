"""One JSON object a line on standard error, ``event`` first: the only way this package logs.

On a terminal, or with ``LOG_FORMAT=text``, the same for people: a line a race, a sentence for a batch, and what is out
of the ordinary. Nothing is configured globally: a program that imports us keeps its own logging.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from raceday_dagster.settings import is_log_for_people, read_log_level

FOR_MACHINES = (
    *("pipeline_", "fetch_start", "fetch_complete", "transform_start", "transform_complete"),
    *("write_start", "write_complete", "batch_progress", "batch_race_failed", "http_", "worker_", "db_pool_"),
)
"""How events begin that people need only as warnings and errors: their race has a line of its own at its end."""
_of_process: dict[str, str] = {}


def _event_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """The event, the fields of this process, then those of the line."""
    return {"event": line.pop("event"), **_of_process, **line}


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


def _render_for_people(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    """``13:05:02 Te Rimu R5: success in 412 ms …``. Raises ``DropEvent`` for what is for machines alone."""
    event, level = str(line.pop("event")), str(line.pop("level"))
    at = datetime.fromisoformat(str(line.pop("time"))).astimezone()
    is_news = level in ("warning", "error", "critical")
    if event == "batch_race_failed" or (not is_news and event.startswith(FOR_MACHINES)):
        raise structlog.DropEvent
    line.pop("run_id", None)
    race_id, race = line.pop("race_id", ""), line.pop("race", "")
    if event == "batch_race_complete":
        ms = line["timings"]
        stages = ", ".join(f"{stage} {ms[f'{stage}_ms']}" for stage in ("fetch", "transform", "write"))
        said = f"{line['status']} in {ms['total_ms']} ms ({stages})"
    elif event == "batch_complete":
        kind, done = ("image", "described") if "total_images" in line else ("race", "written")
        said = (
            f"{line[f'total_{kind}s']} {kind}s: {line['successes']} {done}, {line['skipped']} skipped, "
            f"{line['failures']} failed, in {line['batch_duration_ms'] / 1000:.1f} s"
        )
        slowest = line[f"slowest_{kind}"]
        said += f"; the slowest was {slowest}" if slowest else ""
    else:
        error = line.pop("error", None)
        reason = f": {error['message'] if isinstance(error, dict) else error}" if error else ""
        said = " ".join([event + reason, *(f"{name}={value}" for name, value in line.items())])
    named = f"{race or race_id}: " if race or race_id else ""
    text = f"{at:%H:%M:%S} {level.upper() + ' ' if is_news else ''}{named}{said}"
    # What an API sent must not steer a terminal.
    return "".join(character if character.isprintable() else " " for character in text)


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
    for_people = is_log_for_people(on_terminal=sys.stderr.isatty())
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _StandardError(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _event_first,
            _render_for_people if for_people else structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(read_log_level()),
        cache_logger_on_first_use=False,
        **bound,
    )
    return logger
