"""The transform workers: a few processes, one first-in first-out queue, and a crash that costs nobody but its own race.

Belongs here: whose turn it is, what becomes of a race whose worker failed, and when a lost worker is replaced. One
worker is ``worker``, what it runs is ``entry``.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from raceday_dagster.errors import TransformError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.outcomes import WorkerUse
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.workers.entry import (
    CALCULATION_ERRORS,
    Calculation,
    TaskError,
    TransformReply,
    TransformRequest,
    describe,
    encode,
    load_calculation,
)
from raceday_dagster.workers.worker import StartProcess, Worker, WorkerDied, start_by_fork_server

WINDOW_S = 60.0
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0
STOPPED = "the transform workers were stopped"

log = get_logger()
_task_ids = itertools.count(1)


class WorkerMetrics(Record):
    """The workers at this moment, and their use so far. One that is not ready yet is neither busy nor idle."""

    busy: int
    idle: int
    queue_depth: int
    use: WorkerUse


class TransformWorkers:
    """Runs the calculation in up to ``size`` processes; 0 runs it in the calling thread.

    A worker that is forked costs ten times what a race costs it, so ``transform`` begins with one of them, and with
    another whenever a race has had to wait for ``grow_after_s``. None begins before ``start`` or ``transform``.

    Args:
        size: The most worker processes at once.
        task_timeout_s: Longest one try of one race may run.
        max_attempts: Tries of a race whose worker died.
        max_restarts_per_minute: More are put off until the minute has passed.
        grow_after_s: How long a race waits before another worker is started for it.
        calculation: What is run, importable by name; ``race.transform_race`` if not given.
        start_process: Where the processes come from.
    """

    def __init__(
        self,
        size: int,
        *,
        task_timeout_s: float = 5.0,
        max_attempts: int = 3,
        max_restarts_per_minute: int = 10,
        grow_after_s: float = 0.25,
        calculation: Calculation | None = None,
        start_process: StartProcess = start_by_fork_server,
    ) -> None:
        self._size = size
        self._task_timeout_s = task_timeout_s
        self._max_attempts = max_attempts
        self._grow_after_s = grow_after_s
        self._calculation = calculation
        self._start_process = start_process
        self._restarts = RestartBudget(max_restarts_per_minute)
        self._worker_ids = itertools.count(1)
        # Guards everything below, and wakes all who wait whenever something of it changes.
        self._changed = threading.Condition()
        self._started = False
        self._stopped = False
        self._queue: deque[_Task] = deque()
        self._workers: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._begun = 0  # workers that were ever to be; a replacement does not count again
        self._starting = 0  # of those, the ones that are not there yet, or not there again
        self._put_off = 0  # of those, the ones that wait for the minute to pass
        self._busy = 0
        self._busy_peak = 0
        self._queue_depth_peak = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, workers: int | None = None) -> None:
        """Begins to start so many workers, all of them if not given, and returns at once; harmless when repeated."""
        with self._changed:
            if self._stopped:
                return
            if not self._started:
                self._started = True
                log.info("worker_pool_initialized", workers=self._size, task_timeout_s=self._task_timeout_s)
            wanted = self._size if workers is None else min(self._size, workers)
            while self._begun < wanted:
                self._begun += 1
                self._begin_worker(None)

    def transform(self, event: RaceEvent, *, timeout_s: float | None = None) -> RaceSnapshot:
        """The snapshot of one answer. Waits for its turn, in the order of the calls, and until it is done.

        Args:
            event: The answer.
            timeout_s: Longest this call may take, waiting included; no limit if not given.

        Raises:
            TransformError: Not retryable when the calculation failed; retryable when its worker died in every try,
                when time ran out, when no worker is left, and when the workers were stopped.
        """
        task = _Task(event, timeout_s)
        if self._size == 0:
            return self._calculate_inline(task)
        request = task.encode_request()
        requeued = False
        while True:
            worker = self._take_worker(task, requeued=requeued)
            try:
                return task.read_reply(self._ask(worker, task, request), worker.worker_id)
            except WorkerDied as death:
                # One that was found dead never had the task: no attempt was made.
                task.attempts += death.in_task
                if task.attempts >= self._max_attempts:
                    raise task.abandon(f"its worker died in each of {task.attempts} attempts") from death
                task.log.warning("worker_task_requeued", attempts=task.attempts)
                requeued = True

    def metrics(self) -> WorkerMetrics:
        """The workers at this moment."""
        with self._changed:
            return WorkerMetrics(
                busy=self._busy,
                idle=len(self._idle),
                queue_depth=len(self._queue),
                use=WorkerUse(
                    total=self._size,
                    busy_peak=self._busy_peak,
                    queue_depth_peak=self._queue_depth_peak,
                    restarts=self._restarts.total,
                ),
            )

    def stop(self, timeout_s: float = 5.0) -> None:
        """Fails what is queued and running, ends the workers and waits for them; harmless when repeated."""
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            if not self._started:
                return
            for worker in self._workers:
                worker.hang_up()
            self._changed.notify_all()
        log.info("worker_pool_shutdown_start")
        with self._changed:
            # A busy worker is closed by the thread that waits for it, and one that starts by the thread that starts it.
            self._changed.wait_for(lambda: self._busy == self._starting == 0, timeout_s)
            unfinished = self._busy + self._starting
            idle = list(self._idle)
            self._idle.clear()
        for worker in idle:
            self._close(worker, dead=True)
        log.info("worker_pool_shutdown_complete", unfinished=unfinished)

    def _take_worker(self, task: _Task, *, requeued: bool) -> Worker:
        """A worker for this task once its turn has come; a task that lost its worker goes before all others."""
        with self._changed:
            if requeued:
                self._queue.appendleft(task)
            else:
                self._queue.append(task)
            task.log.debug("worker_task_enqueued", queue_depth=len(self._queue))
            self.start(1)
            grow_at_s = time.monotonic() + self._grow_after_s
            try:
                while True:
                    if obstacle := self._find_obstacle(task):
                        raise task.abandon(obstacle)
                    if self._idle and self._queue[0] is task:
                        self._count_busy()
                        return self._idle.popleft()
                    self._queue_depth_peak = max(self._queue_depth_peak, len(self._queue))
                    # A worker that is on its way may be all that is missing; one that was put off is not.
                    may_grow = self._starting == self._put_off and self._begun < self._size
                    grow_in_s = grow_at_s - time.monotonic() if may_grow else math.inf
                    if grow_in_s <= 0:
                        self.start(self._begun + 1)
                        grow_in_s = math.inf
                    self._changed.wait(min(task.left_s(), grow_in_s, threading.TIMEOUT_MAX))
            finally:
                self._queue.remove(task)
                self._changed.notify_all()

    def _find_obstacle(self, task: _Task) -> str | None:
        if self._stopped:
            return STOPPED
        if task.left_s() == 0:
            return "no transform worker was free in time"
        if not self._idle and not self._busy and self._put_off == self._size > 0:
            return "no transform worker is left: too many died within a minute"
        return None

    def _ask(self, worker: Worker, task: _Task, request: bytes) -> bytes:
        task.log.debug("worker_task_assigned", worker_id=worker.worker_id)
        fit = False
        try:
            raw = worker.ask(request, min(self._task_timeout_s, task.left_s()))
            fit = True
        except WorkerDied as death:
            code = self._close(worker, dead=True)
            if self._stopped:
                raise task.abandon(STOPPED) from death
            task.log.warning("worker_exit", worker_id=worker.worker_id, pid=worker.pid, code=code, reason=str(death))
            raise
        except TimeoutError as late:
            self._close(worker, dead=False)
            raise task.abandon(f"worker {worker.worker_id} gave {late}", worker.worker_id) from late
        finally:
            with self._changed:
                self._busy -= 1
                if fit:
                    self._idle.append(worker)
                elif not self._stopped:
                    self._begin_worker(worker.worker_id)
                self._changed.notify_all()
        return raw

    def _calculate_inline(self, task: _Task) -> RaceSnapshot:
        self.start()
        with self._changed:
            if obstacle := self._find_obstacle(task):
                raise task.abandon(obstacle)
            self._count_busy()
        try:
            return task.calculate(self._calculation or load_calculation())
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _count_busy(self) -> None:
        self._busy += 1
        self._busy_peak = max(self._busy_peak, self._busy)

    def _close(self, worker: Worker, *, dead: bool) -> int | None:
        with self._changed:
            self._workers.discard(worker)
        return worker.close(dead=dead)

    def _begin_worker(self, instead_of: int | None) -> None:
        """Begins to start a worker, for a lost one if its number is given. The caller holds the lock."""
        self._starting += 1
        thread = threading.Thread(
            target=self._start_worker, args=(instead_of,), name="start-transform-worker", daemon=True
        )
        thread.start()

    def _start_worker(self, instead_of: int | None) -> None:
        """Tries until there is a worker, or the workers are stopped."""
        try:
            while instead_of is None or self._wait_for_restart(instead_of):
                worker = Worker(next(self._worker_ids), transfer_timeout_s=self._task_timeout_s)
                if self._open(worker):
                    return
                instead_of = worker.worker_id
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()

    def _open(self, worker: Worker) -> bool:
        with self._changed:
            self._workers.add(worker)
            if self._stopped:
                worker.hang_up()
        try:
            worker.open(self._start_process, self._calculation)
        except WorkerDied as death:
            code = self._close(worker, dead=True)
            if not self._stopped:
                log.error("worker_error", worker_id=worker.worker_id, code=code, reason=str(death))
            return False
        log.info("worker_started", worker_id=worker.worker_id, pid=worker.pid)
        with self._changed:
            self._idle.append(worker)
        return True

    def _wait_for_restart(self, instead_of: int) -> bool:
        """Waits until the budget allows another start; False if the workers were stopped."""
        with self._changed:
            if self._stopped:
                return False
            delay_s = self._restarts.reserve(time.monotonic())
            put_off = delay_s > LONGEST_DELAY_S
            say = log.error if put_off else log.info
            say("worker_restart", instead_of=instead_of, delay_ms=round(delay_s * 1000))
            self._put_off += put_off
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped, delay_s)
            self._put_off -= put_off
            return not self._stopped


class RestartBudget:
    """How fast lost workers are replaced: the first at once, the next ones slower, and never more than so many a
    minute. The caller brings a monotonic clock and a lock."""

    def __init__(self, per_minute: int) -> None:
        self.total = 0
        self._per_minute = per_minute
        self._starts_s: deque[float] = deque(maxlen=per_minute)

    def reserve(self, now_s: float) -> float:
        """Takes one restart out of the budget.

        Returns:
            Seconds until it may begin; more than ``LONGEST_DELAY_S`` when the budget of this minute is used up.
        """
        recent = sum(start_s > now_s - WINDOW_S for start_s in self._starts_s)
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (recent - 1)) if recent else 0.0
        if len(self._starts_s) == self._per_minute:
            delay_s = max(delay_s, self._starts_s[0] + WINDOW_S - now_s)
        self._starts_s.append(now_s + delay_s)
        self.total += 1
        return delay_s


class _Task:
    """A call of ``transform``. ``attempts`` counts the workers that died while they had it."""

    def __init__(self, event: RaceEvent, timeout_s: float | None) -> None:
        self.attempts = 0
        self._task_id = str(next(_task_ids))
        self.log = get_logger(task_id=self._task_id, race_id=event.race_id)
        self._event = event
        self._ends_s = math.inf if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float:
        return max(0.0, self._ends_s - time.monotonic())

    def encode_request(self) -> bytes:
        try:
            return encode(TransformRequest(task_id=self._task_id, payload=self._event))
        except ValueError as error:
            raise self._fail(describe(error)) from error

    def read_reply(self, raw: bytes, worker_id: int) -> RaceSnapshot:
        try:
            reply = TransformReply.model_validate_json(raw)
        except ValidationError as error:
            raise self._fail(describe(error)) from error
        if reply.error is not None:
            if not reply.error.stack:
                self.log.error("worker_error", worker_id=worker_id, reason=reply.error.name)
            raise self._fail(reply.error, worker_id)
        self.log.debug("worker_task_completed", worker_id=worker_id, duration_ms=reply.duration_ms)
        assert reply.result is not None  # a reply without an error holds a result
        return reply.result

    def calculate(self, calculation: Calculation) -> RaceSnapshot:
        """The snapshot without a worker."""
        try:
            return calculation(self._event)
        except CALCULATION_ERRORS as error:
            raise self._fail(describe(error)) from error

    def abandon(self, reason: str, worker_id: int | None = None) -> TransformError:
        """The error to raise for a task that nobody finished: another try may."""
        self.log.error("worker_task_abandoned", attempts=self.attempts, reason=reason)
        return self._build_error(reason, worker_id, retryable=True)

    def _fail(self, error: TaskError, worker_id: int | None = None) -> TransformError:
        """The error to raise for an answer that cannot be transformed, now or later."""
        self.log.error("worker_task_failed", worker_id=worker_id, error=error.model_dump())
        return self._build_error(f"{error.name}: {error.message}"[:200], worker_id, retryable=False)

    def _build_error(self, message: str, worker_id: int | None, *, retryable: bool) -> TransformError:
        error = TransformError(message, race_id=self._event.race_id, retryable=retryable)
        error.worker_id = worker_id
        return error
