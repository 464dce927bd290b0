"""How steps may end, and what that does to the rest of the run: as with the stock executors."""

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


def test_a_failing_item_costs_only_itself_and_what_needs_it(instance: dg.DagsterInstance) -> None:
    result = run(jobs.failing_item_job, instance)
    assert _status(instance, result) == dg.DagsterRunStatus.FAILURE
    assert sorted(probe.happened) == ["follow 0", "follow 1", "follow 2", "follow 4", "stand_alone"]
    assert [event.step_key for event in result.get_step_failure_events()] == ["fail_on_three[3]"]
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    assert failure.message is not None
    assert "fail_on_three[3]" in failure.message


def test_what_needs_an_output_that_never_came_is_skipped(instance: dg.DagsterInstance) -> None:
    result = run(jobs.skipping_job, instance)
    assert result.success
    assert probe.happened == ["follow 1"]
    assert {event.step_key for event in result.get_step_skipped_events()} == {"follow_right", "after_right"}


def test_a_step_that_asks_for_retries_gets_them_with_the_wait(instance: dg.DagsterInstance) -> None:
    result = run(jobs.retry_job, instance, ops={"ask_for_retries": {"waits_s": 0.05}})
    assert result.success
    assert probe.happened == ["attempt 0", "attempt 1", "attempt 2", "follow 2"]
    waits = [event.step_retry_data.seconds_to_wait for event in result.all_events if event.is_step_up_for_retry]
    assert waits == [0.05, 0.05]


def test_retries_without_a_wait_follow_one_another(instance: dg.DagsterInstance) -> None:
    assert run(jobs.retry_job, instance).success
    assert probe.happened == ["attempt 0", "attempt 1", "attempt 2", "follow 2"]


def test_retries_end_at_their_maximum(instance: dg.DagsterInstance) -> None:
    result = run(jobs.retry_job, instance, ops={"ask_for_retries": {"fails": 9}})
    assert not result.success
    assert probe.happened == ["attempt 0", "attempt 1", "attempt 2"]


def test_disabled_retries_make_the_request_a_failure(instance: dg.DagsterInstance) -> None:
    result = run(jobs.retry_job, instance, execution={"retries": {"disabled": {}}})
    assert not result.success
    assert probe.happened == ["attempt 0"]


def test_deferred_retries_are_left_to_somebody_else(instance: dg.DagsterInstance) -> None:
    result = run(jobs.deferred_retry_job, instance)
    assert probe.happened == ["attempt 0"]
    assert len(messages(result, dg.DagsterEventType.STEP_UP_FOR_RETRY)) == 1


def test_a_retry_policy_is_followed(instance: dg.DagsterInstance) -> None:
    assert run(jobs.retry_policy_job, instance).success
    assert probe.happened == ["attempt 0", "attempt 1"]


def test_hooks_run_and_a_broken_one_costs_nothing(instance: dg.DagsterInstance) -> None:
    result = run(jobs.hooked_job, instance)
    assert sorted(probe.happened) == ["failure hook of explode: boom", "stand_alone", "success hook of stand_alone"]
    assert len(messages(result, dg.DagsterEventType.HOOK_ERRORED)) == 1
    assert {event.step_key for event in result.get_step_failure_events()} == {"explode"}


def test_raise_on_error_raises_the_users_own_error(instance: dg.DagsterInstance) -> None:
    with pytest.raises(ValueError, match="three is refused"):
        run(jobs.failing_item_job, instance, execution={"max_concurrent": 1}, raise_on_error=True)
    (stored,) = instance.get_runs(limit=1)
    assert stored.status == dg.DagsterRunStatus.FAILURE


def test_a_step_that_exits_the_interpreter_is_a_failed_step(instance: dg.DagsterInstance) -> None:
    result = run(jobs.exiting_job, instance)
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


def test_a_run_is_taken_up_again_from_its_failure() -> None:
    with dg.instance_for_test() as instance:
        first = run(jobs.refailing_job, instance)
        assert not first.success
        assert probe.happened == ["seven"]
        again = dg.execute_job(
            dg.reconstructable(jobs.refailing_job),
            instance,
            reexecution_options=dg.ReexecutionOptions.from_failure(first.run_id, instance),
        )
        assert again.success
        assert probe.happened == ["seven", "follow 7"]


def test_a_selection_of_steps_runs_alone(instance: dg.DagsterInstance) -> None:
    result = dg.execute_job(dg.reconstructable(jobs.failing_item_job), instance, op_selection=["stand_alone"])
    assert result.success
    assert probe.happened == ["stand_alone"]
