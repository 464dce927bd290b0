"""How steps may end that `test_executor_against_stock` does not show, and what that does to the rest of the run."""

from collections.abc import Iterator

import dagster as dg
import pytest

from raceday_dagster_tests.integration.dagster_plugins import executor_ending_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_jobs import doubling_job
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import messages, probe, run


def _status(instance: dg.DagsterInstance, result: dg.JobExecutionResult) -> dg.DagsterRunStatus:
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    return stored.status


def test_disabled_retries_make_the_request_a_failure(instance: dg.DagsterInstance) -> None:
    result = run(jobs.retry_job, instance, execution={"retries": {"disabled": {}}})
    assert not result.success
    assert probe.happened == ["attempt 0"]


def test_deferred_retries_are_left_to_somebody_else(instance: dg.DagsterInstance) -> None:
    result = run(jobs.deferred_retry_job, instance)
    assert probe.happened == ["attempt 0"]
    assert len(messages(result, dg.DagsterEventType.STEP_UP_FOR_RETRY)) == 1


@pytest.mark.parametrize("job", [jobs.exiting_job, jobs.exiting_async_job], ids=["a thread", "the event loop"])
def test_a_step_that_exits_the_interpreter_is_a_failed_step(
    instance: dg.DagsterInstance, job: dg.JobDefinition
) -> None:
    result = run(job, instance)
    assert _status(instance, result) == dg.DagsterRunStatus.FAILURE
    assert probe.happened == ["stand_alone"]
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.error is not None
    assert failure.step_failure_data.error.cls_name == "SystemExit"


def test_what_leaves_a_step_as_no_step_failure_may_ends_the_run_with_an_engine_error(
    instance: dg.DagsterInstance,
) -> None:
    result = run(jobs.keyboard_job, instance)
    assert _status(instance, result) == dg.DagsterRunStatus.FAILURE
    engine_messages = messages(result, dg.DagsterEventType.ENGINE_EVENT)
    assert "KeyboardInterrupt left step leave_by_keyboard_interrupt: the run ends. Running: none" in engine_messages
    assert probe.happened == []


def test_a_bug_of_dagster_in_a_thread_ends_the_run_and_does_not_hang_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_sequence(_: object) -> Iterator[dg.DagsterEvent]:
        probe.note("reached")
        raise LookupError("not in anybody's op")
        yield

    monkeypatch.setattr("raceday_dagster.dagster_plugins.executor.dagster_event_sequence_for_step", broken_sequence)
    result = run(doubling_job, instance)
    assert probe.happened == ["reached"]
    assert _status(instance, result) == dg.DagsterRunStatus.FAILURE
    engine_messages = messages(result, dg.DagsterEventType.ENGINE_EVENT)
    assert "LookupError left step fan_out: the run ends. Running: none" in engine_messages


def test_a_step_that_ends_without_saying_how_fails_the_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent_sequence(_: object) -> Iterator[dg.DagsterEvent]:
        probe.note("reached")
        return
        yield

    monkeypatch.setattr("raceday_dagster.dagster_plugins.executor.dagster_event_sequence_for_step", silent_sequence)
    result = run(doubling_job, instance)
    assert probe.happened == ["reached"]
    assert _status(instance, result) == dg.DagsterRunStatus.FAILURE
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    assert "{'fan_out'} in an unknown state" in str(failure.job_failure_data.error)
