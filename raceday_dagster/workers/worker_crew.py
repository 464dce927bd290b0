"""Keeps a number of workers alive: opens them in the background, replaces the lost ones, closes them all.

Who works on what is not decided here but in ``workers``.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext

from raceday_dagster.logs import get_logger
from raceday_dagster.workers.restarts import LONGEST_DELAY_S, RestartBudget
from raceday_dagster.workers.worker_lane import WorkerLane, WorkerLost

log = get_logger()


class WorkerCrew:
    """Workers of one pool.

    Args:
        size: How many there should be.
        context: Where their processes come from.
        max_restarts_per_minute: More are put off until the minute has passed.
        on_ready: Called with each worker that is warm, from a thread of the crew.
        on_setback: Called from a thread of the crew when a replacement was put off.
    """

    def __init__(
        self,
        size: int,
        context: BaseContext,
        *,
        max_restarts_per_minute: int,
        on_ready: Callable[[WorkerLane], None],
        on_setback: Callable[[], None],
    ) -> None:
        self._size = size
        self._context = context
        self._on_ready = on_ready
        self._on_setback = on_setback
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._restarts = RestartBudget(max_restarts_per_minute)
        self._ids = itertools.count(1)
        self._lanes: set[WorkerLane] = set()
        self._threads: list[threading.Thread] = []
        self._put_off = 0

    @property
    def restarts(self) -> int:
        """Replacements so far."""
        with self._lock:
            return self._restarts.total

    @property
    def exhausted(self) -> bool:
        """Whether every worker is dead and its replacement put off: nobody will work for a while."""
        with self._lock:
            return self._put_off == self._size > 0

    def recruit(self) -> None:
        """Begins to start all workers and returns at once."""
        for _ in range(self._size):
            self._spawn_thread(self._fill_vacancy)

    def replace(self, lane: WorkerLane) -> None:
        """Ends a worker that is dead, or busy beyond its time, and begins to start another; returns at once."""
        self._spawn_thread(self._replace, lane)

    def close(self, timeout_s: float) -> int:
        """Ends all workers and waits for them; returns how many of its threads are still at it after ``timeout_s``."""
        with self._lock:
            self._stopping.set()
            lanes = list(self._lanes)
        for lane in lanes:
            self._spawn_thread(self._dismiss, lane)
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)

    def _spawn_thread(self, work: Callable[..., None], *arguments: WorkerLane) -> None:
        thread = threading.Thread(target=work, args=arguments, name="transform-worker-crew", daemon=True)
        with self._lock:
            self._threads = [known for known in self._threads if known.is_alive()] + [thread]
            # Started under the lock: one that is listed but not yet alive would be dropped by the next caller.
            thread.start()

    def _fill_vacancy(self) -> None:
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                lane = WorkerLane(next(self._ids), self._context)
                self._lanes.add(lane)
            try:
                lane.open()
            except WorkerLost as lost:
                self._dismiss(lane)
                if not self._stopping.is_set():
                    log.error("worker_error", worker_id=lane.worker_id, code=lost.code, reason=str(lost))
                    self._wait_for_restart(lane)
            else:
                log.info("worker_started", worker_id=lane.worker_id, pid=lane.pid)
                self._on_ready(lane)
                return

    def _replace(self, lane: WorkerLane) -> None:
        self._dismiss(lane)
        if not self._stopping.is_set():
            self._wait_for_restart(lane)
            self._fill_vacancy()

    def _dismiss(self, lane: WorkerLane) -> None:
        lane.close()
        with self._lock:
            self._lanes.discard(lane)

    def _wait_for_restart(self, lane: WorkerLane) -> None:
        with self._lock:
            delay_s = self._restarts.reserve(time.monotonic())
            put_off = delay_s > LONGEST_DELAY_S
            self._put_off += put_off
        write = log.error if put_off else log.info
        write("worker_restart", instead_of=lane.worker_id, delay_ms=round(delay_s * 1000))
        if put_off:
            self._on_setback()
        self._stopping.wait(delay_s)
        with self._lock:
            self._put_off -= put_off
