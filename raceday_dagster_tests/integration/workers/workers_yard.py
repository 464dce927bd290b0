"""Transform workers under test, held at named pipes.

Nothing here sleeps: a worker waits until its pipe is opened, a test until a state is reached, bounded only so that a
bug ends.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.unit.transform.golden_race import open_event

PATIENCE_S = 30.0
tick = threading.Event()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        tick.wait(0.005)
    pytest.fail("the awaited state never came")


def open_gate(gate: Path) -> None:
    """Lets the one worker that waits at the pipe go on."""
    descriptors: list[int] = []

    def reached() -> bool:
        try:
            descriptors.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    until(reached)
    os.close(descriptors[0])


def reported(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


class Yard:
    """A pool under test, and threads that call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._callers = ThreadPoolExecutor(16)
        self._pools: list[TransformWorkers] = []

    def open(
        self, size: int, calculation: Callable[..., RaceSnapshot] | None = None, **limits: Any
    ) -> TransformWorkers:
        pool = TransformWorkers(size, calculation=calculation, **limits)
        self._pools.append(pool)
        pool.start()
        return pool

    def gate(self, name: str) -> Path:
        path = self.folder / name
        os.mkfifo(path)
        return path

    def attempts(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def call(self, pool: TransformWorkers, race_id: str, path: Path, **options: Any) -> Future[RaceSnapshot]:
        return self._callers.submit(pool.transform, open_event(race_id, str(path)), **options)

    def close(self) -> None:
        for pool in self._pools:
            pool.stop()
        self._callers.shutdown()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    yard.close()
