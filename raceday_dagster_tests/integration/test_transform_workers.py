"""The transform workers with real processes: order, crashes, time-outs, shutdown.

Workers are held at named pipes; nothing here sleeps, and waiting for a state is bounded only so that a bug ends.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from raceday_dagster.errors import TransformError
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.transform.workers import TransformWorkers, WorkerMetrics
from raceday_dagster_tests.integration import transform_calculations as calculations
from raceday_dagster_tests.unit.golden_race import golden_event, open_event

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


@pytest.mark.parametrize("size", [0, 1])
def test_the_result_is_the_same_in_a_worker_and_in_the_calling_thread(yard: Yard, size: int) -> None:
    assert yard.open(size).transform(golden_event()) == transform_race(golden_event())


def test_five_calls_share_three_workers(yard: Yard) -> None:
    pool = yard.open(3, calculations.wait_at_gate)
    gates = [yard.gate(f"gate-{number}") for number in range(5)]
    calls = [yard.call(pool, f"race-{number}", gate) for number, gate in enumerate(gates)]
    until(lambda: pool.metrics().busy == 3 and pool.metrics().queue_depth == 2)
    assert pool.metrics().idle == 0
    openers = [threading.Thread(target=open_gate, args=(gate,)) for gate in gates]
    for opener in openers:
        opener.start()
    assert [call.result(PATIENCE_S).race_id for call in calls] == [f"race-{number}" for number in range(5)]
    metrics = pool.metrics()
    assert (metrics.total, metrics.busy, metrics.idle, metrics.queue_depth) == (3, 0, 3, 0)
    assert (metrics.busy_peak, metrics.restarts) == (3, 0)
    assert metrics.queue_depth_peak >= 2
    for opener in openers:
        opener.join()


def test_calls_are_served_in_their_order(yard: Yard) -> None:
    pool = yard.open(1, calculations.wait_at_gate)
    gates = [yard.gate(f"gate-{number}") for number in range(4)]
    calls = []
    for number, gate in enumerate(gates):
        calls.append(yard.call(pool, f"race-{number}", gate))
        until(lambda waiting=number: pool.metrics().busy == 1 and pool.metrics().queue_depth == waiting)
    for gate in gates:
        open_gate(gate)
    for call in calls:
        call.result(PATIENCE_S)
    assert (yard.folder / "order").read_text().split() == [f"race-{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("death", "code"),
    [
        (calculations.kill_itself_once, -9),
        (calculations.exit_once, 7),
        (calculations.segfault_once, -11),
        (calculations.exit_quietly_once, None),
    ],
)
def test_a_worker_that_dies_is_replaced_and_only_its_own_race_is_done_again(
    yard: Yard, capsys: pytest.CaptureFixture[str], death: Callable[..., RaceSnapshot], code: int | None
) -> None:
    pool = yard.open(2, death, task_timeout_s=PATIENCE_S)
    gate = yard.gate("gate")
    other = yard.call(pool, "other", gate)
    until(lambda: pool.metrics().busy == 1)
    attempts = yard.attempts("attempts")
    assert yard.call(pool, "victim", attempts).result(PATIENCE_S).race_id == "victim"
    assert len(list(attempts.iterdir())) == 2
    open_gate(gate)
    assert other.result(PATIENCE_S).race_id == "other"
    assert (yard.folder / "order").read_text().split() == ["other"]
    until(lambda: pool.metrics().idle == 2)
    assert pool.metrics().restarts == 1
    lines = reported(capsys)
    (left,) = [line for line in lines if line["event"] == "worker_exit"]
    assert (left["race_id"], left["code"]) == ("victim", code)
    assert [line["race_id"] for line in lines if line["event"] == "worker_task_requeued"] == ["victim"]
    assert sum(line["event"] == "worker_started" for line in lines) == 3


def test_a_race_whose_worker_died_goes_before_those_that_wait(yard: Yard) -> None:
    pool = yard.open(1, calculations.exit_once)
    first, second = yard.gate("first"), yard.gate("second")
    holding = yard.call(pool, "holding", first)
    until(lambda: pool.metrics().busy == 1)
    attempts = yard.attempts("attempts")
    victim = yard.call(pool, "victim", attempts)
    until(lambda: pool.metrics().queue_depth == 1)
    waiting = yard.call(pool, "waiting", second)
    until(lambda: pool.metrics().queue_depth == 2)
    open_gate(first)
    assert victim.result(PATIENCE_S).race_id == "victim"
    assert not waiting.done()
    open_gate(second)
    assert [call.result(PATIENCE_S).race_id for call in (holding, waiting)] == ["holding", "waiting"]


def test_a_race_that_kills_three_workers_fails_and_the_next_one_does_not(yard: Yard) -> None:
    pool = yard.open(1, calculations.exit_always)
    attempts = yard.attempts("attempts")
    with pytest.raises(TransformError, match="died in each of 3 attempts") as failure:
        pool.transform(open_event("poison", str(attempts)))
    assert (failure.value.race_id, failure.value.retryable) == ("poison", True)
    assert len(list(attempts.iterdir())) == 3
    gate = yard.gate("gate")
    healthy = yard.call(pool, "healthy", gate)
    open_gate(gate)
    assert healthy.result(PATIENCE_S).race_id == "healthy"


def test_idle_workers_that_were_killed_cost_no_race_an_attempt(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    pool = yard.open(3, max_attempts=1)
    until(lambda: pool.metrics().idle == 3)
    workers = [psutil.Process(line["pid"]) for line in reported(capsys) if line["event"] == "worker_started"]
    assert len(workers) == 3
    for worker in workers:
        worker.kill()
    assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []
    assert pool.transform(golden_event()).race_id == "golden-race"
    assert pool.metrics().restarts >= 1


def test_when_workers_die_faster_than_allowed_races_fail_at_once(
    yard: Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = yard.open(1, calculations.exit_always, max_restarts_per_minute=1)
    with pytest.raises(TransformError, match="no transform worker is left") as failure:
        pool.transform(open_event("poison", str(yard.attempts("attempts"))))
    assert failure.value.retryable
    with pytest.raises(TransformError, match="no transform worker is left"):
        pool.transform(golden_event())
    assert [line["level"] for line in reported(capsys) if line["event"] == "worker_restart"] == ["info", "error"]


def test_a_race_that_takes_too_long_costs_its_worker_and_nobody_else(yard: Yard) -> None:
    pool = yard.open(2, calculations.loop_for_ever, task_timeout_s=0.5)
    looping = yard.call(pool, "loop", yard.folder)
    until(lambda: pool.metrics().busy == 1)
    assert pool.transform(open_event("other")).race_id == "other"
    with pytest.raises(TransformError, match="no answer within") as failure:
        looping.result(PATIENCE_S)
    assert (failure.value.race_id, failure.value.retryable) == ("loop", True)
    until(lambda: pool.metrics().idle == 2)
    assert pool.metrics().restarts == 1


def test_a_call_ends_when_its_own_time_is_over_also_in_the_queue(yard: Yard) -> None:
    pool = yard.open(1, calculations.wait_at_gate)
    gate = yard.gate("gate")
    holding = yard.call(pool, "holding", gate)
    until(lambda: pool.metrics().busy == 1)
    with pytest.raises(TransformError, match="no transform worker was free in time") as failure:
        pool.transform(open_event("late"), timeout_s=0.01)
    assert failure.value.retryable
    assert pool.metrics().queue_depth == 0
    open_gate(gate)
    assert holding.result(PATIENCE_S).race_id == "holding"


@pytest.mark.parametrize("size", [0, 1])
def test_a_failed_calculation_is_not_tried_again(yard: Yard, capsys: pytest.CaptureFixture[str], size: int) -> None:
    pool = yard.open(size, calculations.divide_by_zero)
    with pytest.raises(TransformError, match="ZeroDivisionError: bad divided") as failure:
        pool.transform(open_event("bad"))
    assert (failure.value.race_id, failure.value.retryable) == ("bad", False)
    (line,) = [line for line in reported(capsys) if line["event"] == "worker_task_failed"]
    assert line["race_id"] == "bad"
    assert line["task_id"]
    assert "divide_by_zero" in line["error"]["stack"]
    assert (pool.metrics().busy, pool.metrics().restarts) == (0, 0)


def test_an_error_no_calculation_raises_fails_the_race_and_keeps_the_worker(yard: Yard) -> None:
    pool = yard.open(1, calculations.run_out_of_memory)
    for _ in range(2):
        with pytest.raises(TransformError, match="MemoryError") as failure:
            pool.transform(open_event("bad"))
        assert not failure.value.retryable
    assert (pool.metrics().idle, pool.metrics().restarts) == (1, 0)


def test_text_that_cannot_cross_the_border_fails_only_its_race(yard: Yard) -> None:
    pool = yard.open(1)
    with pytest.raises(TransformError) as failure:
        pool.transform(open_event("bad", "half a surrogate pair: \ud800"))
    assert not failure.value.retryable
    assert pool.transform(open_event("nul", "a\0b")).race.name == "a\0b"


def test_stopping_fails_what_runs_and_what_waits_and_leaves_no_worker(
    yard: Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = yard.open(1, calculations.wait_at_gate)
    calls = [yard.call(pool, "running", yard.gate("running"))]
    until(lambda: pool.metrics().busy == 1)
    calls.append(yard.call(pool, "waiting", yard.gate("waiting")))
    until(lambda: pool.metrics().queue_depth == 1)
    pool.stop()
    for call in calls:
        with pytest.raises(TransformError, match="were stopped") as failure:
            call.result(PATIENCE_S)
        assert failure.value.retryable
    with pytest.raises(TransformError, match="were stopped"):
        pool.transform(golden_event())
    lines = reported(capsys)
    assert not any(psutil.pid_exists(line["pid"]) for line in lines if line["event"] == "worker_started")
    shutdown = [line for line in lines if "shutdown" in line["event"]]
    assert [line["event"] for line in shutdown] == ["worker_pool_shutdown_start", "worker_pool_shutdown_complete"]
    assert shutdown[-1]["unfinished"] == 0


def test_a_pool_can_be_stopped_while_its_workers_are_starting(yard: Yard) -> None:
    pool = yard.open(3)
    pool.stop()
    pool.stop()
    assert pool.metrics().busy == 0
    with pytest.raises(TransformError, match="were stopped"):
        pool.transform(golden_event())


def test_starting_twice_starts_once(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    pool = yard.open(2)
    pool.start()
    until(lambda: pool.metrics().idle == 2)
    assert sum(line["event"] == "worker_started" for line in reported(capsys)) == 2


def test_an_inline_pool_counts_its_callers(yard: Yard) -> None:
    pool = yard.open(0, calculations.wait_at_gate)
    gate = yard.gate("gate")
    call = yard.call(pool, "race", gate)
    until(lambda: pool.metrics().busy == 1)
    open_gate(gate)
    call.result(PATIENCE_S)
    assert pool.metrics() == WorkerMetrics(
        total=0, busy=0, idle=0, queue_depth=0, busy_peak=1, queue_depth_peak=0, restarts=0
    )


def test_an_interrupt_reaches_the_parent_only(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    pool = yard.open(1, calculations.wait_at_gate)
    gate = yard.gate("gate")
    call = yard.call(pool, "race", gate)
    until(lambda: pool.metrics().busy == 1)
    (started,) = [line for line in reported(capsys) if line["event"] == "worker_started"]
    os.kill(started["pid"], signal.SIGINT)
    open_gate(gate)
    assert call.result(PATIENCE_S).race_id == "race"
    assert pool.metrics().restarts == 0


@pytest.mark.parametrize("limits", [{"size": -1}, {"task_timeout_s": 0}, {"max_attempts": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="size must be 0 or more"):
        TransformWorkers(**{"size": 1, **limits})
