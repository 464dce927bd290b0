"""What runs at once, in which order, and within which limits."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run_iterator
from dagster._core.execution.plan.active import ActiveExecution

from raceday_dagster_tests.integration.dagster_plugins import executor_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import PATIENCE_S, probe, run


@pytest.fixture
def on_disk() -> Iterator[dg.DagsterInstance]:
    """An instance that has op pools, which one in memory lacks."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.mark.parametrize(
    ("job", "execution", "peak"),
    [
        pytest.param(jobs.meeting_job, {}, 5, id="five by default"),
        pytest.param(jobs.meeting_job, {"max_concurrent": 3}, 3, id="as the run's config says"),
        pytest.param(jobs.meeting_job, {"max_concurrent": 1}, 1, id="one is serial"),
        pytest.param(jobs.two_at_once_job, {}, 2, id="the builder's default"),
        pytest.param(jobs.ceiling_job, {"max_concurrent": 50}, 3, id="lowered by a ceiling"),
    ],
)
def test_so_many_steps_are_inside_at_once_and_never_one_more(
    instance: dg.DagsterInstance, job: dg.JobDefinition, execution: dict[str, object], peak: int
) -> None:
    probe.reset(parties=peak)
    result = run(job, instance, ops={"fan_out": {"items": 2 * peak}}, execution=execution)
    assert result.success
    assert probe.peak == peak
    assert sum(event.is_step_success for event in result.all_events) == 1 + 2 * peak
    assert set(probe.happened) == ({"asked for 50"} if job is jobs.ceiling_job else set())


def test_a_full_house_looks_for_no_steps(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    look = ActiveExecution.get_steps_to_execute

    def look_and_note(active: ActiveExecution, limit: int | None = None) -> Sequence[Any]:
        asked.append(limit)
        return look(active, limit)

    monkeypatch.setattr(ActiveExecution, "get_steps_to_execute", look_and_note)
    assert run(jobs.doubling_job, instance, ops={"fan_out": {"items": 40}}, execution={"max_concurrent": 1}).success
    steps = 42
    assert steps <= len(asked) <= steps + 3
    assert set(asked) == {1}


@pytest.mark.parametrize("max_concurrent", [0, -1])
@pytest.mark.parametrize("job", [jobs.doubling_job, jobs.ceiling_job], ids=["plain", "with a ceiling"])
def test_less_than_one_at_a_time_fails_the_run_in_one_line_before_any_step(
    instance: dg.DagsterInstance, job: dg.JobDefinition, max_concurrent: int
) -> None:
    result = run(job, instance, execution={"max_concurrent": max_concurrent})
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    assert failure.job_failure_data.error is not None
    assert failure.job_failure_data.error.message.strip().endswith(
        f"max_concurrent must be 1 or more, not {max_concurrent}."
    )
    assert probe.happened == []


def test_every_mapped_step_runs_and_then_the_collecting_one(instance: dg.DagsterInstance) -> None:
    result = run(jobs.doubling_job, instance, ops={"fan_out": {"items": 25}})
    assert result.success
    assert sorted(probe.happened[:-1]) == sorted(f"double {number}" for number in range(25))
    assert probe.happened[-1] == f"sum {sum(range(25)) * 2}"


def test_with_rising_priorities_an_item_ends_before_a_new_one_starts(instance: dg.DagsterInstance) -> None:
    result = run(jobs.depth_first_job, instance, ops={"fan_out": {"items": 20}}, execution={"max_concurrent": 3})
    assert result.success
    assert probe.peak == 3
    assert probe.inside == set()


def test_a_tag_limit_holds_within_the_run(instance: dg.DagsterInstance) -> None:
    probe.reset(together=2)
    limits = [{"key": "lane", "value": "slow", "limit": 2}]
    assert run(jobs.tagged_job, instance, execution={"tag_concurrency_limits": limits}).success
    assert probe.peak == 2


def test_a_tag_limit_that_lets_nothing_run_is_an_error_and_not_a_wait_for_ever(instance: dg.DagsterInstance) -> None:
    limits = [{"key": "lane", "value": "slow", "limit": 0}]
    result = run(jobs.tagged_job, instance, execution={"tag_concurrency_limits": limits})
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    assert "without completing the execution plan" in str(failure.job_failure_data.error)


def test_an_op_pool_holds_and_gives_its_places_back(on_disk: dg.DagsterInstance) -> None:
    probe.reset(together=2)
    on_disk.event_log_storage.set_concurrency_slots("lane", 2)
    result = run(jobs.pooled_job, on_disk)
    assert result.success
    assert probe.peak == 2
    assert on_disk.event_log_storage.get_concurrency_info("lane").active_slot_count == 0
    assert on_disk.event_log_storage.get_concurrency_info("lane").pending_step_count == 0


def test_a_run_waits_for_an_op_pool_that_another_run_has_taken(on_disk: dg.DagsterInstance) -> None:
    slots = on_disk.event_log_storage
    slots.set_concurrency_slots("lane", 1)
    assert slots.claim_concurrency_slot("lane", "another-run", "its-step").is_claimed
    blocked = threading.Event()

    def give_back_once_blocked() -> None:
        assert blocked.wait(PATIENCE_S)
        slots.free_concurrency_slot_for_step("another-run", "its-step")

    helper = threading.Thread(target=give_back_once_blocked)
    helper.start()
    job = dg.reconstructable(jobs.pooled_job)
    created = on_disk.create_run_for_job(jobs.pooled_job, job_code_origin=job.get_python_origin())
    for event in execute_run_iterator(job, created, on_disk):
        if "blocked by limit for pool lane" in (event.message or ""):
            blocked.set()
    helper.join()
    assert blocked.is_set()
    assert probe.peak == 1
    assert on_disk.get_run_by_id(created.run_id).status == dg.DagsterRunStatus.SUCCESS


def test_a_step_starts_when_its_inputs_are_there_if_the_run_asks_for_that(instance: dg.DagsterInstance) -> None:
    config = {"step_dependency_config": {"require_upstream_step_success": False}}
    assert run(jobs.early_output_job, instance, execution=config).success
    assert probe.happened == ["consumer runs", "producer ends"]


def test_the_events_of_each_step_stay_in_order_in_the_run_and_in_the_storage(on_disk: dg.DagsterInstance) -> None:
    result = run(jobs.doubling_job, on_disk, ops={"fan_out": {"items": 12}})
    stored = [record.event_log_entry.dagster_event for record in on_disk.get_records_for_run(result.run_id).records]
    for events in (result.all_events, [event for event in stored if event]):
        by_step: dict[str, list[str]] = {}
        for event in events:
            if event.step_key and event.step_key.startswith("double"):
                by_step.setdefault(event.step_key, []).append(event.event_type_value)
        assert len(by_step) == 12
        assert set(map(tuple, by_step.values())) == {
            ("STEP_START", "LOADED_INPUT", "STEP_INPUT", "STEP_OUTPUT", "HANDLED_OUTPUT", "STEP_SUCCESS")
        }
