"""The transform workers with real processes: whose turn it is, what they count, how they end."""

from __future__ import annotations

import threading
from typing import Any

import psutil
import pytest

from raceday_dagster.errors import TransformError
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.pool import TransformWorkers, WorkerMetrics
from raceday_dagster_tests.integration.workers import calculations as calculations
from raceday_dagster_tests.integration.workers.workers_yard import PATIENCE_S, Yard, open_gate, reported, until, yard
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event

__all__ = ["yard"]


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


@pytest.mark.parametrize("limits", [{"size": -1}, {"task_timeout_s": 0}, {"max_attempts": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="size must be 0 or more"):
        TransformWorkers(**{"size": 1, **limits})
