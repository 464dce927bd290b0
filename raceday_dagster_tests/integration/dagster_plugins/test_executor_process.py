"""What steps in one process share, and what each thread has for itself."""

import asyncio
import logging
from collections import Counter

import dagster as dg
import pytest

from raceday_dagster_tests.integration.dagster_plugins import executor_sharing_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_jobs import doubling_job, meeting_job
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import messages, probe, run


@pytest.fixture(autouse=True)
def fresh_probe() -> None:
    probe.reset(parties=5)


def test_a_resource_goes_up_once_and_down_once_after_the_last_step(instance: dg.DagsterInstance) -> None:
    result = run(jobs.resource_job, instance)
    assert not result.success
    assert probe.happened == ["resource up", *["used"] * 5, "resource down, 0 inside"]


def test_a_resource_goes_down_after_the_last_step_also_when_the_run_ends_on_an_error(
    instance: dg.DagsterInstance,
) -> None:
    with pytest.raises(ValueError, match="a failing user"):
        run(jobs.resource_job, instance, raise_on_error=True)
    assert probe.happened[-1] == "resource down, 0 inside"
    assert probe.happened.count("resource down, 0 inside") == 1


def test_async_steps_meet_on_one_event_loop_and_each_has_its_own_log_lines(instance: dg.DagsterInstance) -> None:
    result = run(jobs.async_job, instance)
    assert result.success
    assert probe.happened == ["sum 10"]
    lines = [(entry.step_key, entry.user_message) for entry in instance.all_logs(result.run_id)]
    filed = sorted(line for line in lines if line[1].startswith("python line of"))
    assert filed == [(f"meet_async[{number}]", f"python line of {number}") for number in range(5)]


def test_a_run_without_async_steps_starts_no_event_loop(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made.append("loop") or make())
    monkeypatch.setattr(asyncio.BaseEventLoop, "run_forever", lambda _: probe.note("runs"))
    monkeypatch.setattr(asyncio.BaseEventLoop, "run_until_complete", lambda _, coroutine: coroutine.close())
    assert run(doubling_job, instance).success
    assert made == ["loop"], "Dagster makes one a run"
    assert "runs" not in probe.happened


def test_a_line_of_a_thread_that_a_step_started_is_filed_once(instance: dg.DagsterInstance) -> None:
    result = run(jobs.helper_logging_job, instance)
    lines = Counter(entry.user_message for entry in instance.all_logs(result.run_id))
    assert [lines[f"helper line of {number}"] for number in range(5)] == [1] * 5


def test_a_python_log_line_is_filed_once_under_the_step_whose_thread_wrote_it(instance: dg.DagsterInstance) -> None:
    handlers = list(logging.getLogger("dagster").handlers)
    result = run(jobs.logging_job, instance)
    entries = [entry for entry in instance.all_logs(result.run_id) if " line of " in entry.user_message]
    filed = Counter((entry.step_key, entry.user_message) for entry in entries)
    expected: Counter[tuple[str | None, str]] = Counter()
    for number in range(5):
        expected[f"log_together[{number}]", f"python line of {number}"] = 1
        expected[f"log_together[{number}]", f"context line of {number}"] = 1
    assert filed == expected
    assert logging.getLogger("dagster").handlers == handlers


def test_each_step_sees_its_own_context_and_leaves_the_warning_filters_alone(instance: dg.DagsterInstance) -> None:
    assert run(jobs.context_job, instance).success
    assert Counter(probe.happened) == {"filters swapped: False": 5, "own context: True": 5}


def test_threads_carry_the_name_of_their_step_and_are_gone_after_the_run(instance: dg.DagsterInstance) -> None:
    import threading

    assert run(meeting_job, instance).success
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step ")]


def test_compute_logs_are_captured_once_for_the_run(instance: dg.DagsterInstance) -> None:
    result = run(doubling_job, instance)
    assert len(messages(result, dg.DagsterEventType.LOGS_CAPTURED)) == 1


def test_compute_logs_that_cannot_be_captured_do_not_cost_the_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("no room for logs")

    monkeypatch.setattr(instance.compute_log_manager, "capture_logs", refuse)
    result = run(doubling_job, instance)
    assert result.success
    lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "Exception while setting up compute log capture" in lines
