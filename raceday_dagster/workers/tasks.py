"""One race on its way through the workers: who it is, how long it has, how often it was tried."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from raceday_dagster.errors import TransformError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.workers.messages import TaskError, TransformReply, TransformRequest, encode
from raceday_dagster.workers.worker import CALCULATION_ERRORS, Calculation, describe, load_calculation

_ids = itertools.count(1)


@dataclass(eq=False)
class Task:
    """A call of ``TransformWorkers.transform``. ``attempts`` counts the workers that died while they had it."""

    event: RaceEvent
    deadline_s: float | None
    task_id: str = field(default_factory=lambda: str(next(_ids)))
    attempts: int = 0
    log: FilteringBoundLogger = field(init=False)

    def __post_init__(self) -> None:
        self.log = get_logger(task_id=self.task_id, race_id=self.event.race_id)

    @classmethod
    def of(cls, event: RaceEvent, timeout_s: float | None) -> Task:
        """A new task that has ``timeout_s`` from now on."""
        return cls(event, None if timeout_s is None else time.monotonic() + timeout_s)

    def left_s(self) -> float | None:
        """Seconds left, 0 when its time is over; ``None`` when it has no limit."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def encode_request(self) -> bytes:
        """The message to a worker.

        Raises:
            TransformError: The answer holds text that no message can.
        """
        try:
            return encode(TransformRequest(task_id=self.task_id, payload=self.event))
        except ValueError as error:
            raise self.fail_calculation(describe(error)) from error

    def read_reply(self, raw: bytes, worker_id: int) -> RaceSnapshot:
        """The snapshot in a worker's message.

        Raises:
            TransformError: The worker reports an error, or something that is no reply to this task.
        """
        try:
            reply = TransformReply.model_validate_json(raw)
        except ValidationError as error:
            raise self.fail_calculation(describe(error)) from error
        if reply.result is None:
            raise self.fail_calculation(
                reply.error or TaskError(name="TransformReply", message="neither result nor error", stack="")
            )
        self.log.debug("worker_task_completed", worker_id=worker_id, duration_ms=reply.duration_ms)
        return reply.result

    def calculate_here(self, calculation: Calculation | None) -> RaceSnapshot:
        """The snapshot without a worker.

        Raises:
            TransformError: As for ``read_reply``.
        """
        try:
            return (calculation or load_calculation())(self.event)
        except CALCULATION_ERRORS as error:
            raise self.fail_calculation(describe(error)) from error

    def fail_calculation(self, error: TaskError) -> TransformError:
        """The error to raise for an answer that cannot be transformed, now or later."""
        self.log.error("worker_task_failed", error=error.model_dump())
        return TransformError(f"{error.name}: {error.message}"[:200], race_id=self.event.race_id, retryable=False)

    def abandon(self, reason: str) -> TransformError:
        """The error to raise for a task that nobody finished."""
        self.log.error("worker_task_abandoned", attempts=self.attempts, reason=reason)
        return TransformError(reason, race_id=self.event.race_id, retryable=True)
