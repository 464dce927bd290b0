"""One worker process and the way to it: opened once, closed once, replaced by a new lane when its worker is lost.

Each lane is a pebble pool of one. A pebble pool of several shares one pipe and one lock between its workers: a worker
killed at the wrong moment stops the others, and an idle one that dies breaks the pool with every task in it. Alone in
its pool, a worker costs nobody but itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from pebble import CONSTS, ProcessExpired, ProcessPool

from raceday_dagster.workers.worker import Calculation, answer, get_ready, join_parent

Answer = TypeVar("Answer")

# How often pebble's threads look up: a pool ends up to this long after it was told to, at the end of every batch.
CONSTS.sleep_unit = 0.02

START_TIMEOUT_S = 30.0
"""For an interpreter and its imports on a machine under load."""
CHECK_S = 0.2
"""How long a pool that broke without telling can go unnoticed."""


class WorkerLost(Exception):  # noqa: N818  a loss, which the pool repairs; the error is TransformError
    """The worker is gone. ``in_task`` when it was alive to take the task; ``code`` is its exit status, if known."""

    def __init__(self, reason: str, *, code: int | None = None, in_task: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.in_task = in_task


class WorkerTimeout(Exception):  # noqa: N818  as above
    """The worker did not answer in time; it is still running and must be closed."""


class WorkerRaised(Exception):  # noqa: N818  as above
    """The worker lives, but raised what no calculation raises (``__cause__``)."""


class WorkerLane:
    """A worker process. Used by one caller at a time; ``close`` may come from any thread."""

    def __init__(self, worker_id: int, context: BaseContext) -> None:
        self.worker_id = worker_id
        self.pid: int | None = None
        self._pulse, self._workers_pulse = context.Pipe(duplex=False)
        # Any: pebble annotates only some of its methods.
        self._pool: Any = ProcessPool(
            max_workers=1, initializer=join_parent, initargs=(self._workers_pulse,), context=context
        )
        self._lock = threading.Lock()
        self._closed = False
        self._current: Future[Any] | None = None

    def open(self) -> None:
        """Starts the worker and waits until it is warm.

        Raises:
            WorkerLost: It did not come up, or the lane was closed meanwhile.
        """
        try:
            self.pid = self._call(START_TIMEOUT_S, get_ready)
        except (WorkerTimeout, WorkerRaised) as error:
            raise WorkerLost(f"the worker did not start: {error.__cause__ or error}") from error
        # From here on only the worker holds it. Pebble cannot start a second worker with it either, and says so: it
        # would replace one that exited with status 0 without a word, and leave the task waiting for ever.
        with self._lock:
            if not self._closed:
                self._workers_pulse.close()

    def run(self, request: bytes, timeout_s: float, calculation: Calculation | None = None) -> bytes:
        """Has the worker answer one encoded request.

        Raises:
            WorkerLost: The worker died, or the lane was closed.
            WorkerTimeout: No answer within ``timeout_s``.
            WorkerRaised: An exception that is not the calculation's.
        """
        return self._call(timeout_s, answer, request, calculation)

    def close(self) -> None:
        """Ends the worker, and with it what it is doing: ``run`` raises ``WorkerLost``. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            current = self._current
        if current is not None:
            current.cancel()
        self._pool.stop()
        self._pool.join()
        self._pulse.close()
        self._workers_pulse.close()

    def _call(self, timeout_s: float, function: Callable[..., Answer], *arguments: object) -> Answer:
        try:
            if self._pulse.poll(0):
                raise WorkerLost("the worker was found dead")
            future: Future[Answer] = self._pool.schedule(function, args=arguments)
        except (OSError, RuntimeError) as broken:
            raise WorkerLost(f"the worker was found dead: {broken}") from broken
        with self._lock:
            self._current = future
        error = self._wait(future, timeout_s)
        if isinstance(error, ProcessExpired | BrokenProcessPool):
            code = error.exitcode if isinstance(error, ProcessExpired) else None
            raise WorkerLost("the worker died in the task", code=code, in_task=True) from error
        if error is not None:
            raise WorkerRaised(type(error).__name__) from error
        return future.result()

    def _wait(self, future: Future[Any], timeout_s: float) -> BaseException | None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                return future.exception(timeout=min(CHECK_S, max(0.0, left_s)))
            except CancelledError as error:
                raise WorkerLost("the worker was stopped") from error
            except TimeoutError as error:
                # A pool that breaks while it takes a task in never ends that task's future.
                if not self._pool.active:
                    raise WorkerLost("the worker died in the task", in_task=True) from error
                if left_s <= 0:
                    raise WorkerTimeout(f"no answer within {timeout_s:g} s") from error
