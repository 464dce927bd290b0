"""What runs inside a transform worker. Imported by the parent too, which needs only the names: no pandas up here."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection

from pydantic import ValidationError

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.workers.messages import TaskError, TransformReply, TransformRequest, encode

Calculation = Callable[[RaceEvent], RaceSnapshot]

CALCULATION_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a wrong value in a payload, or a wrong line of ours, makes the calculation raise."""


def load_calculation() -> Calculation:
    """``transform_race``, imported here so that a parent does not pay for pandas unless it calculates itself."""
    from raceday_dagster.transform.race import transform_race

    return transform_race


def answer(raw: bytes, calculation: Calculation | None = None) -> bytes:
    """One encoded ``TransformRequest`` to one encoded ``TransformReply``; a failed calculation is a reply too."""
    began_s = time.monotonic()
    task_id = ""
    try:
        request = TransformRequest.model_validate_json(raw)
        task_id = request.task_id
        result = (calculation or load_calculation())(request.payload)
        return encode(TransformReply(task_id=task_id, status="ok", duration_ms=_since(began_s), result=result))
    except CALCULATION_ERRORS as error:
        described = describe(error)
        return encode(TransformReply(task_id=task_id, status="error", duration_ms=_since(began_s), error=described))


def describe(error: Exception) -> TaskError:
    """The error as a value that is safe to log: one short line, frames without the payload's text."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        text = str(error)
    line = " ".join(text.split()).encode("utf-8", "replace").decode()[:200]
    return TaskError(name=type(error).__name__, message=line, stack="".join(traceback.format_tb(error.__traceback__)))


def get_ready() -> int:
    """The first task of every worker; its answer says that the worker is warm. Returns the process id."""
    load_calculation()
    return os.getpid()


def join_parent(pulse: Connection) -> None:
    """Ties this process and its parent together, whichever ends first and however.

    The parent sees that ``pulse``, open here and nowhere else, is closed. This process ends in the middle of a
    calculation if need be: an idle worker notices that its pipe closed, one in an endless loop would live on.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.join, pulse), name="join-parent", daemon=True).start()


def _exit_after(wait: Callable[[], None], _kept_open: Connection) -> None:
    wait()
    os._exit(0)


def _since(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)
