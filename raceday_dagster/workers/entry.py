"""What runs inside a transform worker, and the messages on its pipe: JSON, validated at both ends.

The parent imports this file too, for the messages and the names; the calculation is imported only in a process that
calculates.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot

Calculation = Callable[[RaceEvent], RaceSnapshot]

CALCULATION_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a wrong value in a payload, or a wrong line of ours, makes the calculation raise."""


class TransformRequest(Record):
    """One race to transform."""

    task_id: str
    payload: RaceEvent


class TaskError(Record):
    """Why a calculation failed: the exception's class, one line, and the frames without their values.

    ``stack`` is empty for an exception that no calculation raises, such as ``MemoryError``.
    """

    name: str
    message: str = Field(max_length=200)
    stack: str


class TransformReply(Record):
    """What came of a request: a result or an error, never both. ``duration_ms`` is the worker's own."""

    task_id: str
    status: Literal["ok", "error"]
    duration_ms: int
    result: RaceSnapshot | None = None
    error: TaskError | None = None

    @model_validator(mode="after")
    def _holds_what_it_says(self) -> Self:
        if (self.status == "ok") != (self.result is not None) or (self.status == "error") != (self.error is not None):
            raise ValueError("a reply holds a result if it is ok, and otherwise an error")
        return self


def encode(message: TransformRequest | TransformReply) -> bytes:
    """The message as JSON; fields that were never set stay unset on the other side.

    Raises:
        ValueError: A text in it is not Unicode (half of a surrogate pair).
    """
    return message.model_dump_json(exclude_unset=True).encode()


def describe(error: Exception) -> TaskError:
    """The error as a value that is safe to log: one short line, frames without the payload's text."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        text = str(error)
    line = " ".join(text.split()).encode("utf-8", "replace").decode()[:200]
    return TaskError(name=type(error).__name__, message=line, stack="".join(traceback.format_tb(error.__traceback__)))


def name_calculation(calculation: Calculation | None) -> str:
    """A calculation as text, ``module:function``, which is how a worker is told of it; empty for the usual one."""
    return f"{calculation.__module__}:{calculation.__qualname__}" if calculation else ""


def load_calculation(name: str = "") -> Calculation:
    """The calculation of that name, and ``transform_race`` without one. Imported here: a parent that does not
    calculate does not need it."""
    module, _, function = (name or "raceday_dagster.transform.race:transform_race").partition(":")
    calculation: Calculation = getattr(import_module(module), function)
    return calculation


def answer(raw: bytes, calculation: Calculation) -> bytes:
    """One encoded ``TransformRequest`` to one encoded ``TransformReply``; a failed calculation is a reply too."""
    began_s = time.monotonic()
    task_id = ""
    try:
        request = TransformRequest.model_validate_json(raw)
        task_id = request.task_id
        result = calculation(request.payload)
        return encode(TransformReply(task_id=task_id, status="ok", duration_ms=_since(began_s), result=result))
    except CALCULATION_ERRORS as error:
        failure = describe(error)
    except Exception as error:  # noqa: BLE001  whatever it is, it costs this race and not the worker
        failure = TaskError(name=type(error).__name__, message="raised in a worker", stack="")
    return encode(TransformReply(task_id=task_id, status="error", duration_ms=_since(began_s), error=failure))


def serve_descriptor(fd: int, calculation: str = "") -> int:
    """The life of a worker: it says that it is ready, then gives one reply a request until its pipe closes.

    Args:
        fd: The worker's end of the pipe.
        calculation: What it calculates, as ``name_calculation`` has it.

    Returns:
        The exit code of the process.
    """
    # Ctrl-C at a terminal reaches every process and is the parent's to obey.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_when_closed, args=(fd,), name="exit-when-closed", daemon=True).start()
    with Connection(fd) as pipe:
        calculate = load_calculation(calculation)
        try:
            pipe.send_bytes(b"")
            while True:
                pipe.send_bytes(answer(pipe.recv_bytes(), calculate))
        except (EOFError, ConnectionError):
            return 0


def _exit_when_closed(fd: int) -> None:
    """Ends the process when the other end of its pipe is closed, also in the middle of an endless calculation."""
    closed = select.poll()
    closed.register(fd, 0)  # no event but the hang-up, which is always reported
    closed.poll()
    os._exit(0)


def _since(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)
