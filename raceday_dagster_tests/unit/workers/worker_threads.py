"""Transform workers whose processes are threads of the test: real pipes and messages, and a death at a call.

A calculation that is held waits until the test lets its race go on.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pytest

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.entry import Calculation, answer
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.unit.transform.golden_race import open_event
from raceday_dagster_tests.waiting import PATIENCE_S, wait_for


def read_log(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


class Death(BaseException):
    """Raised by a calculation: the process ends here, with this exit code."""


class ThreadProcess:
    """A ``WorkerProcess`` that is a thread."""

    def __init__(self, pipe: Connection, calculation: Calculation | None) -> None:
        self.pid = os.getpid()
        self.exitcode: int | None = None
        self._pipe = Connection(os.dup(pipe.fileno()))
        self._ended = threading.Event()
        self._calculation = calculation or transform_race
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            with suppress(EOFError, OSError):
                self._pipe.send_bytes(b"")
                while True:
                    self._pipe.send_bytes(answer(self._pipe.recv_bytes(), self._calculation))
        except Death as death:
            self.exitcode = int(str(death))
        self._pipe.close()
        self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(0 if self._is_cut_off() else timeout)

    def kill(self) -> None:
        self.exitcode = -9

    def close(self) -> None:
        pass

    def die(self) -> None:
        """As a process does that was killed while it had nothing to do."""
        self.exitcode = -9
        with socket.socket(fileno=os.dup(self._pipe.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def _is_cut_off(self) -> bool:
        """Whether the other end of the pipe is closed: a process would end by itself, a thread that is held cannot."""
        if self._pipe.closed:
            return False
        closed = select.poll()
        closed.register(self._pipe.fileno(), 0)
        return bool(closed.poll(0))


class HeldCalculation:
    """The usual calculation; races with a gate are held at it, and some end their worker."""

    def __init__(self) -> None:
        self.order: list[str] = []
        """The races in the order in which they were let go on."""
        self.lives: dict[str, int] = {}
        """How many workers a race kills before it succeeds."""
        self._gates: dict[str, threading.Event] = {}

    def hold(self, *race_ids: str) -> None:
        self._gates.update({race_id: threading.Event() for race_id in race_ids})

    def let_go(self, race_id: str) -> None:
        self._gates[race_id].set()

    def let_all_go(self) -> None:
        for gate in self._gates.values():
            gate.set()

    def __call__(self, event: RaceEvent) -> RaceSnapshot:
        if event.race_id in self._gates:
            assert self._gates[event.race_id].wait(PATIENCE_S)
        self.order.append(event.race_id)
        if self.lives.get(event.race_id, 0) > 0:
            self.lives[event.race_id] -= 1
            raise Death("7")
        return transform_race(event)


class WorkerTest:
    """Workers under test, threads that call them, and the calculation that all of them run."""

    def __init__(self) -> None:
        self.calculation = HeldCalculation()
        self._callers = ThreadPoolExecutor(16)
        self._opened: list[TransformWorkers] = []

    def open(self, size: int, calculation: Calculation | None = None, **options: Any) -> TransformWorkers:
        workers = TransformWorkers(
            size, calculation=calculation or self.calculation, **{"start_process": ThreadProcess, **options}
        )
        self._opened.append(workers)
        return workers

    def call(self, workers: TransformWorkers, race_id: str, name: str = "", **options: Any) -> Future[RaceSnapshot]:
        return self._callers.submit(workers.transform, open_event(race_id, name), **options)

    def call_in_order(self, workers: TransformWorkers, *race_ids: str) -> list[Future[RaceSnapshot]]:
        """Calls, each made when the one before is in the queue or at a worker."""
        calls = []
        for race_id in race_ids:
            before = workers.metrics()
            calls.append(self.call(workers, race_id))
            wait_for(lambda there=before.busy + before.queue_depth: count_calls(workers) > there)
        return calls

    def close(self) -> None:
        self.calculation.let_all_go()
        for workers in self._opened:
            workers.stop()
        self._callers.shutdown()


def count_calls(workers: TransformWorkers) -> int:
    metrics = workers.metrics()
    return metrics.busy + metrics.queue_depth


@pytest.fixture
def worker_test(capsys: pytest.CaptureFixture[str]) -> Iterator[WorkerTest]:
    """Opened after the capture of the log, and closed before it ends."""
    test = WorkerTest()
    yield test
    test.close()
