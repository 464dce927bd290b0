"""Whose turn it is, what becomes of a race whose worker died, what is counted, and how it all ends."""

from __future__ import annotations

from multiprocessing.connection import Connection

import pytest

from raceday_dagster.errors import TransformError
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.outcomes import WorkerUse
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.entry import Calculation
from raceday_dagster.workers.pool import LONGEST_DELAY_S, RestartBudget
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event
from raceday_dagster_tests.unit.workers.worker_threads import ThreadProcess, WorkerTest, read_log, worker_test
from raceday_dagster_tests.waiting import PATIENCE_S, wait_for

__all__ = ["worker_test"]


def divide_by_zero(event: RaceEvent) -> RaceSnapshot:
    raise ZeroDivisionError(f"{event.race_id} divided")


def run_out_of_memory(event: RaceEvent) -> RaceSnapshot:
    raise MemoryError(event.race_id)


@pytest.mark.parametrize("size", [0, 1])
def test_result_is_the_same_in_a_worker_and_in_the_calling_thread(worker_test: WorkerTest, size: int) -> None:
    assert worker_test.open(size, transform_race).transform(golden_event()) == transform_race(golden_event())


def test_five_races_share_three_workers(worker_test: WorkerTest) -> None:
    workers = worker_test.open(3)
    workers.start()
    races = [f"race-{number}" for number in range(5)]
    worker_test.calculation.hold(*races)
    calls = worker_test.call_in_order(workers, *races)
    wait_for(lambda: workers.metrics().busy == 3)
    assert (workers.metrics().idle, workers.metrics().queue_depth) == (0, 2)
    worker_test.calculation.let_all_go()
    assert [call.result(PATIENCE_S).race_id for call in calls] == races
    metrics = workers.metrics()
    assert (metrics.use.total, metrics.busy, metrics.idle, metrics.queue_depth) == (3, 0, 3, 0)
    assert (metrics.use.busy_peak, metrics.use.restarts) == (3, 0)
    assert metrics.use.queue_depth_peak >= 2


def test_races_are_served_in_the_order_of_their_calls(worker_test: WorkerTest) -> None:
    workers = worker_test.open(1)
    races = [f"race-{number}" for number in range(4)]
    worker_test.calculation.hold(races[0])
    calls = worker_test.call_in_order(workers, *races)
    worker_test.calculation.let_all_go()
    for call in calls:
        call.result(PATIENCE_S)
    assert worker_test.calculation.order == races


def test_call_ends_when_its_own_time_is_over_also_in_the_queue(worker_test: WorkerTest) -> None:
    workers = worker_test.open(1)
    worker_test.calculation.hold("holding")
    holding = worker_test.call(workers, "holding")
    wait_for(lambda: workers.metrics().busy == 1)
    with pytest.raises(TransformError, match="no transform worker was free in time") as failure:
        workers.transform(open_event("late"), timeout_s=0.01)
    assert failure.value.retryable
    assert workers.metrics().queue_depth == 0
    worker_test.calculation.let_all_go()
    assert holding.result(PATIENCE_S).race_id == "holding"


@pytest.mark.parametrize("size", [0, 1])
def test_failed_calculation_is_not_tried_again(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    workers = worker_test.open(size, divide_by_zero)
    with pytest.raises(TransformError, match="ZeroDivisionError: bad divided") as failure:
        workers.transform(open_event("bad"))
    assert (failure.value.race_id, failure.value.retryable) == ("bad", False)
    assert (failure.value.worker_id is None) is (size == 0)
    (line,) = [line for line in read_log(capsys) if line["event"] == "worker_task_failed"]
    assert line["race_id"] == "bad"
    assert line["task_id"]
    assert "divide_by_zero" in line["error"]["stack"]
    assert (workers.metrics().busy, workers.metrics().use.restarts) == (0, 0)


def test_error_that_no_calculation_raises_fails_the_race_and_keeps_the_worker(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = worker_test.open(1, run_out_of_memory)
    for _ in range(2):
        with pytest.raises(TransformError, match="MemoryError: raised in a worker") as failure:
            workers.transform(open_event("bad"))
        assert not failure.value.retryable
    assert (workers.metrics().idle, workers.metrics().use.restarts) == (1, 0)
    assert [line["reason"] for line in read_log(capsys) if line["event"] == "worker_error"] == ["MemoryError"] * 2


def test_text_that_cannot_cross_the_pipe_fails_only_its_race(worker_test: WorkerTest) -> None:
    workers = worker_test.open(1)
    with pytest.raises(TransformError) as failure:
        workers.transform(open_event("bad", "half a surrogate pair: \ud800"))
    assert not failure.value.retryable
    assert workers.transform(open_event("nul", "a\0b")).race.name == "a\0b"


def test_race_whose_worker_died_goes_before_those_that_wait(worker_test: WorkerTest) -> None:
    workers = worker_test.open(1)
    worker_test.calculation.hold("victim")
    worker_test.calculation.lives["victim"] = 1
    calls = worker_test.call_in_order(workers, "victim", "waiting", "last")
    worker_test.calculation.let_all_go()
    for call in calls:
        call.result(PATIENCE_S)
    assert worker_test.calculation.order == ["victim", "victim", "waiting", "last"]


def test_race_that_kills_three_workers_fails_and_the_next_one_does_not(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = worker_test.open(1)
    worker_test.calculation.lives["poison"] = 100
    with pytest.raises(TransformError, match="died in each of 3 attempts") as failure:
        workers.transform(open_event("poison"))
    assert (failure.value.race_id, failure.value.retryable) == ("poison", True)
    assert worker_test.calculation.order == ["poison"] * 3
    assert workers.transform(open_event("healthy")).race_id == "healthy"
    lines = read_log(capsys)
    assert [line["code"] for line in lines if line["event"] == "worker_exit"] == [7] * 3
    assert [line["attempts"] for line in lines if line["event"] == "worker_task_requeued"] == [1, 2]
    assert [line["attempts"] for line in lines if line["event"] == "worker_task_abandoned"] == [3]


def test_workers_that_died_idle_cost_no_race_an_attempt(worker_test: WorkerTest) -> None:
    processes: list[ThreadProcess] = []

    def start(pipe: Connection, calculation: Calculation | None) -> ThreadProcess:
        processes.append(ThreadProcess(pipe, calculation))
        return processes[-1]

    workers = worker_test.open(3, max_attempts=1, start_process=start)
    workers.start()
    wait_for(lambda: workers.metrics().idle == 3)
    for process in processes:
        process.die()
    assert workers.transform(golden_event()).race_id == "golden-race"
    assert workers.metrics().use.restarts >= 1


def test_races_fail_at_once_when_workers_die_faster_than_allowed(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = worker_test.open(1, max_restarts_per_minute=1)
    worker_test.calculation.lives["poison"] = 100
    with pytest.raises(TransformError, match="no transform worker is left") as failure:
        workers.transform(open_event("poison"))
    assert failure.value.retryable
    with pytest.raises(TransformError, match="no transform worker is left"):
        workers.transform(golden_event())
    assert [line["level"] for line in read_log(capsys) if line["event"] == "worker_restart"] == ["info", "error"]


def test_another_worker_stands_in_for_one_whose_replacement_was_put_off(worker_test: WorkerTest) -> None:
    workers = worker_test.open(2, max_restarts_per_minute=1, grow_after_s=0.001)
    worker_test.calculation.lives["victim"] = 2
    assert workers.transform(open_event("victim")).race_id == "victim"
    assert worker_test.calculation.order == ["victim"] * 3


def test_worker_that_cannot_be_started_is_tried_again(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = [BlockingIOError("no more processes")]

    def start(pipe: Connection, calculation: Calculation | None) -> ThreadProcess:
        if refusals:
            raise refusals.pop()
        return ThreadProcess(pipe, calculation)

    assert worker_test.open(1, start_process=start).transform(golden_event()).race_id == "golden-race"
    lines = read_log(capsys)
    assert ["no more processes" in line["reason"] for line in lines if line["event"] == "worker_error"] == [True]
    assert [line["instead_of"] for line in lines if line["event"] == "worker_restart"] == [1]


def test_stopping_fails_what_runs_and_what_waits(worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]) -> None:
    workers = worker_test.open(1)
    worker_test.calculation.hold("running")
    calls = worker_test.call_in_order(workers, "running", "waiting")
    wait_for(lambda: workers.metrics().busy == 1)
    workers.stop()
    for call in calls:
        with pytest.raises(TransformError, match="were stopped") as failure:
            call.result(PATIENCE_S)
        assert failure.value.retryable
    with pytest.raises(TransformError, match="were stopped"):
        workers.transform(golden_event())
    shutdown = [line for line in read_log(capsys) if "shutdown" in line["event"]]
    assert [line["event"] for line in shutdown] == ["worker_pool_shutdown_start", "worker_pool_shutdown_complete"]
    assert shutdown[-1]["unfinished"] == 0


def test_no_more_workers_are_started_than_asked_for_and_none_twice(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = worker_test.open(3)
    assert read_log(capsys) == []
    for asked, expected in ((0, 0), (2, 2), (1, 2), (5, 3), (None, 3)):
        workers.start(asked)
        wait_for(lambda expected=expected: workers.metrics().idle == expected)
    events = [line["event"] for line in read_log(capsys)]
    assert (events.count("worker_pool_initialized"), events.count("worker_started")) == (1, 3)


def test_race_that_waits_for_a_busy_worker_gets_another_one(worker_test: WorkerTest) -> None:
    workers = worker_test.open(2, grow_after_s=0.001)
    worker_test.calculation.hold("holding")
    holding = worker_test.call(workers, "holding")
    wait_for(lambda: workers.metrics().busy == 1)
    assert workers.transform(open_event("other")).race_id == "other"
    worker_test.calculation.let_all_go()
    assert holding.result(PATIENCE_S).race_id == "holding"


def test_races_that_need_not_wait_share_one_worker(worker_test: WorkerTest, capsys: pytest.CaptureFixture[str]) -> None:
    workers = worker_test.open(3, grow_after_s=PATIENCE_S)
    races = [f"race-{number}" for number in range(5)]
    calls = [worker_test.call(workers, race) for race in races]
    assert [call.result(PATIENCE_S).race_id for call in calls] == races
    assert sum(line["event"] == "worker_started" for line in read_log(capsys)) == 1


def test_inline_workers_count_their_callers(worker_test: WorkerTest) -> None:
    workers = worker_test.open(0)
    worker_test.calculation.hold("race")
    call = worker_test.call(workers, "race")
    wait_for(lambda: workers.metrics().busy == 1)
    worker_test.calculation.let_all_go()
    call.result(PATIENCE_S)
    assert (workers.metrics().busy, workers.metrics().idle) == (0, 0)
    assert workers.metrics().use == WorkerUse(total=0, busy_peak=1, queue_depth_peak=0, restarts=0)


def test_restarts_slow_down() -> None:
    budget = RestartBudget(10)
    assert [budget.reserve(0.0) for _ in range(7)] == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, LONGEST_DELAY_S]
    assert budget.total == 7


def test_restarts_beyond_the_budget_wait_for_the_minute_to_pass() -> None:
    budget = RestartBudget(2)
    assert budget.reserve(100.0) == 0.0
    assert budget.reserve(110.0) < LONGEST_DELAY_S
    assert budget.reserve(120.0) == 40.0
    assert budget.reserve(300.0) == 0.0
