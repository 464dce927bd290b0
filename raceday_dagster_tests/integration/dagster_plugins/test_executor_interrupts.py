"""Signals, and a caller that stops listening. Threads cannot be killed: what is shown is what happens instead."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run_iterator
from dagster._core.execution.plan.objects import ErrorSource

from raceday_dagster_tests.integration.dagster_plugins import executor_ending_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import PATIENCE_S, messages, probe, run
from raceday_dagster_tests.waiting import wait_for

ENGINE = dg.DagsterEventType.ENGINE_EVENT


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One for each test, whatever an interrupt left of the one before."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    probe.reset()
    yield
    probe.release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("step "):
            thread.join(PATIENCE_S)


def test_an_interrupt_lets_the_running_step_end_and_starts_no_other(instance: dg.DagsterInstance) -> None:
    result = run(jobs.interrupted_job, instance)
    assert not result.success
    assert probe.happened == ["step ended"]
    assert [event.step_key for event in result.all_events if event.is_step_success] == ["interrupt_run"]
    assert not any(event.is_step_failure for event in result.all_events)
    assert "follow" not in {event.step_key for event in result.all_events if event.event_type == "STEP_START"}


def test_a_run_that_was_asked_to_end_is_canceled(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask_first(pid: int, signal_number: int) -> None:
        (stored,) = instance.get_runs(limit=1)
        instance.report_run_canceling(stored)
        asked.append(stored.run_id)
        kill(pid, signal_number)

    kill = os.kill
    monkeypatch.setattr(os, "kill", ask_first)
    result = run(jobs.interrupted_job, instance)
    assert asked == [result.run_id]
    assert instance.get_runs(limit=1)[0].status == dg.DagsterRunStatus.CANCELED


def test_a_step_that_does_not_end_in_its_grace_has_failed_once_and_is_left_behind(instance: dg.DagsterInstance) -> None:
    config = {"interrupt_run": {"released_by_test": True}}
    result = run(jobs.interrupted_job, instance, ops=config, execution={"interrupt_grace_s": 0.1})
    assert probe.happened == []
    first = "Interrupted: no more steps start, others have 0.1 s to end. Running: interrupt_run"
    assert first in messages(result, ENGINE)
    assert "Left behind: steps that run until this process ends. Running: interrupt_run" in messages(result, ENGINE)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "interrupt_run"
    assert failure.step_failure_data.error_source is ErrorSource.INTERRUPT
    stored = instance.all_logs(result.run_id)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "step interrupt_run"]
    probe.release.set()
    thread.join(PATIENCE_S)
    assert probe.happened == ["step ended"]
    assert instance.all_logs(result.run_id) == stored, "what a failed step still says is not stored"


def test_an_async_step_that_is_left_behind_is_cancelled(instance: dg.DagsterInstance) -> None:
    result = _interrupt_async_job(instance, blocks=False)
    assert probe.happened == ["cancelled"]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.error_source is ErrorSource.INTERRUPT


@pytest.mark.filterwarnings("ignore:coroutine 'BaseEventLoop.shutdown_asyncgens' was never awaited")  # Dagster's
def test_an_async_step_that_blocks_the_event_loop_does_not_hold_up_the_end_of_the_run(
    instance: dg.DagsterInstance,
) -> None:
    result = _interrupt_async_job(instance, blocks=True)
    assert probe.happened == []
    (ended,) = messages(result, dg.DagsterEventType.RUN_FAILURE)
    assert "Execution was interrupted" in ended
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "event loop of the run"]
    probe.release.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def _interrupt_async_job(instance: dg.DagsterInstance, *, blocks: bool) -> dg.JobExecutionResult:
    config: dict[str, dict[str, object]] = {"interrupt_run_and_wait": {"blocks": blocks}}
    return run(jobs.interrupted_async_job, instance, ops=config, execution={"interrupt_grace_s": 0.1})


def test_a_second_interrupt_ends_the_wait(instance: dg.DagsterInstance) -> None:
    threading.Thread(target=_interrupt_once_the_run_waits, args=(instance,)).start()
    config = {"interrupt_run": {"released_by_test": True}}
    result = run(jobs.interrupted_job, instance, ops=config, execution={"interrupt_grace_s": 600.0})
    assert probe.happened == ["second signal"]
    assert "Left behind: steps that run until this process ends. Running: interrupt_run" in messages(result, ENGINE)


def _interrupt_once_the_run_waits(instance: dg.DagsterInstance) -> None:
    def is_waiting() -> bool:
        said = [entry.user_message for run in instance.get_runs(limit=1) for entry in instance.all_logs(run.run_id)]
        return any("no more steps start" in message for message in said)

    wait_for(is_waiting)
    probe.note("second signal")
    os.kill(os.getpid(), signal.SIGINT)


def test_a_caller_that_stops_listening_leaves_no_step_running(instance: dg.DagsterInstance) -> None:
    job = dg.reconstructable(jobs.waiting_job)
    created = instance.create_run_for_job(jobs.waiting_job, job_code_origin=job.get_python_origin())
    events = execute_run_iterator(job, created, instance)
    for event in events:
        if event.event_type == dg.DagsterEventType.STEP_START:
            break
    releaser = threading.Timer(0.1, probe.release.set)
    releaser.start()
    events.close()
    releaser.join()
    assert probe.happened == ["entered", "left"]
    assert "step wait_for_release" not in {thread.name for thread in threading.enumerate()}


def test_a_signal_ends_the_process_of_a_run_although_its_step_never_ends(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    inside = tmp_path / "inside"
    program = (
        "import dagster as dg\n"
        "from raceday_dagster_tests.integration.dagster_plugins import executor_ending_jobs as jobs, executor_probe\n"
        "with dg.DagsterInstance.get() as instance:\n"
        f"    executor_probe.run(jobs.endless_job, instance, ops={{'run_until_killed': {{'file': {str(inside)!r}}}}},\n"
        "        execution={'interrupt_grace_s': 0.2})\n"
    )
    environment = os.environ | {"DAGSTER_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_for(lambda: inside.exists() or process.poll() is not None)
            assert process.poll() is None, "the process ended early"
            with dg.DagsterInstance.from_config(str(home)) as instance:
                (stored,) = instance.get_runs()
                instance.report_run_canceling(stored)
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
                assert instance.get_runs()[0].status == dg.DagsterRunStatus.CANCELED
        finally:
            process.kill()
