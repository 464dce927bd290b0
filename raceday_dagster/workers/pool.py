"""The transform stage's processes: a fixed number of workers, one first-in first-out queue, and a crash that costs
nobody but its own race.

Belongs here: whose turn it is, and what becomes of a race whose worker failed. One worker is ``worker_lane``, keeping
them alive is ``worker_crew``, what they run is ``worker_process``.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Self

from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.workers.messages import TaskError
from raceday_dagster.workers.tasks import Task
from raceday_dagster.workers.worker import Calculation
from raceday_dagster.workers.worker_crew import WorkerCrew
from raceday_dagster.workers.worker_lane import WorkerLane, WorkerLost, WorkerRaised, WorkerTimeout

log = get_logger()


class WorkerMetrics(Record):
    """The pool at this moment, and its peaks so far. A worker that is starting is neither busy nor idle."""

    total: int
    busy: int
    idle: int
    queue_depth: int
    busy_peak: int
    queue_depth_peak: int
    restarts: int


class TransformWorkers:
    """Runs the calculation in ``size`` processes; 0 runs it in the calling thread.

    Args:
        size: Worker processes.
        task_timeout_s: Longest one try of one race may run.
        max_attempts: Tries of a race whose worker died.
        max_restarts_per_minute: More are put off until the minute has passed.
        calculation: What is run, importable by name; ``race.transform_race`` if not given.
    """

    def __init__(
        self,
        size: int,
        *,
        task_timeout_s: float = 5.0,
        max_attempts: int = 3,
        max_restarts_per_minute: int = 10,
        calculation: Calculation | None = None,
    ) -> None:
        if size < 0 or task_timeout_s <= 0 or max_attempts < 1 or max_restarts_per_minute < 1:
            raise ValueError("size must be 0 or more, and the limits more than 0")
        self._size = size
        self._task_timeout_s = task_timeout_s
        self._max_attempts = max_attempts
        self._calculation = calculation
        self._changed = threading.Condition()
        self._started = False
        self._stopped = False
        self._queue: deque[Task] = deque()
        self._idle: deque[WorkerLane] = deque()
        self._busy = 0
        self._busy_peak = 0
        self._queue_depth_peak = 0
        self._crew = WorkerCrew(
            size,
            _choose_context(),
            max_restarts_per_minute=max_restarts_per_minute,
            on_ready=self._welcome,
            on_setback=self._wake_all,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Begins to start the workers and returns at once; harmless when repeated."""
        with self._changed:
            if self._started or self._stopped:
                return
            self._started = True
        log.info("worker_pool_initialized", workers=self._size, task_timeout_s=self._task_timeout_s)
        self._crew.recruit()

    def transform(self, event: RaceEvent, *, timeout_s: float | None = None) -> RaceSnapshot:
        """The snapshot of one answer. Waits for its turn, in the order of the calls, and until it is done.

        Args:
            event: The answer.
            timeout_s: Longest this call may take, waiting included; no limit if not given.

        Raises:
            TransformError: Not retryable when the calculation failed; retryable when its worker died in every try,
                when time ran out, when no worker is left, and when the pool was stopped.
        """
        self.start()
        task = Task.of(event, timeout_s)
        if self._size == 0:
            return self._calculate_inline(task)
        request = task.encode_request()
        requeued = False
        while True:
            lane = self._wait_for_worker(task, first=requeued)
            try:
                return task.read_reply(self._run(task, lane, request), lane.worker_id)
            except WorkerLost as lost:
                # A worker found dead, or stopped with the pool, never had the task: no attempt was made.
                task.attempts += lost.in_task
                if task.attempts >= self._max_attempts:
                    raise task.abandon(f"its worker died in each of {task.attempts} attempts") from lost
                task.log.warning("worker_task_requeued", attempts=task.attempts)
                requeued = True

    def metrics(self) -> WorkerMetrics:
        """The pool at this moment."""
        with self._changed:
            return WorkerMetrics(
                total=self._size,
                busy=self._busy,
                idle=len(self._idle),
                queue_depth=len(self._queue),
                busy_peak=self._busy_peak,
                queue_depth_peak=self._queue_depth_peak,
                restarts=self._crew.restarts,
            )

    def stop(self, timeout_s: float = 5.0) -> None:
        """Fails what is queued and running, ends the workers and waits for them; harmless when repeated."""
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            self._idle.clear()
            self._changed.notify_all()
        log.info("worker_pool_shutdown_start")
        unfinished = self._crew.close(timeout_s)
        log.info("worker_pool_shutdown_complete", unfinished=unfinished)

    def _wait_for_worker(self, task: Task, *, first: bool) -> WorkerLane:
        """A worker for this task once its turn has come; one that lost its worker comes first."""
        with self._changed:
            if first:
                self._queue.appendleft(task)
            else:
                self._queue.append(task)
            task.log.debug("worker_task_enqueued", queue_depth=len(self._queue))
            try:
                while True:
                    if reason := self._find_obstacle(task):
                        raise task.abandon(reason)
                    if self._idle and self._queue[0] is task:
                        self._occupy()
                        return self._idle.popleft()
                    self._queue_depth_peak = max(self._queue_depth_peak, len(self._queue))
                    self._changed.wait(task.left_s())
            finally:
                self._queue.remove(task)
                self._changed.notify_all()

    def _find_obstacle(self, task: Task) -> str | None:
        if self._stopped:
            return "the transform workers were stopped"
        if task.left_s() == 0:
            return "no transform worker was free in time"
        if not self._idle and not self._busy and self._crew.exhausted:
            return "no transform worker is left: too many died within a minute"
        return None

    def _run(self, task: Task, lane: WorkerLane, request: bytes) -> bytes:
        left_s = task.left_s()
        timeout_s = self._task_timeout_s if left_s is None else min(self._task_timeout_s, left_s)
        task.log.debug("worker_task_assigned", worker_id=lane.worker_id)
        fit = False
        try:
            raw = lane.run(request, timeout_s, self._calculation)
            fit = True
        except WorkerRaised as raised:
            fit = True
            task.log.error("worker_error", worker_id=lane.worker_id, reason=str(raised))
            raise task.fail_calculation(TaskError(name=str(raised), message="raised in a worker", stack="")) from raised
        except WorkerTimeout as late:
            raise task.abandon(f"worker {lane.worker_id} gave {late}") from late
        except WorkerLost as lost:
            task.log.warning("worker_exit", worker_id=lane.worker_id, pid=lane.pid, code=lost.code, reason=str(lost))
            raise
        finally:
            self._release(lane, fit=fit)
        return raw

    def _calculate_inline(self, task: Task) -> RaceSnapshot:
        with self._changed:
            if reason := self._find_obstacle(task):
                raise task.abandon(reason)
            self._occupy()
        try:
            return task.calculate_here(self._calculation)
        finally:
            with self._changed:
                self._busy -= 1

    def _occupy(self) -> None:
        self._busy += 1
        self._busy_peak = max(self._busy_peak, self._busy)

    def _release(self, lane: WorkerLane, *, fit: bool) -> None:
        with self._changed:
            self._busy -= 1
            if fit:
                self._idle.append(lane)
            elif not self._stopped:
                self._crew.replace(lane)
            self._changed.notify_all()

    def _welcome(self, lane: WorkerLane) -> None:
        with self._changed:
            self._idle.append(lane)
            self._changed.notify_all()

    def _wake_all(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _choose_context() -> BaseContext:
    """Our fork server, or a new interpreter for each worker where the platform cannot pass file descriptors."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from raceday_dagster.workers.nursery import build_context

    return build_context()
