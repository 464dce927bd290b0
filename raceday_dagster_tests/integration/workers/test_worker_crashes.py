"""Transform workers that die, hang or misbehave: what it costs, and whom."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from raceday_dagster.errors import TransformError
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster_tests.integration.workers import calculations as calculations
from raceday_dagster_tests.integration.workers.workers_yard import PATIENCE_S, Yard, open_gate, reported, until, yard
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event

__all__ = ["yard"]


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


def test_an_error_no_calculation_raises_fails_the_race_and_keeps_the_worker(yard: Yard) -> None:
    pool = yard.open(1, calculations.run_out_of_memory)
    for _ in range(2):
        with pytest.raises(TransformError, match="MemoryError") as failure:
            pool.transform(open_event("bad"))
        assert not failure.value.retryable
    assert (pool.metrics().idle, pool.metrics().restarts) == (1, 0)
