"""What Dagster promises of every kind of job, asked of its in-process executor and of ours alike.

Both must do what is written here, and each step must say the same events in the same order.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterInvalidConfigError

from raceday_dagster_tests.integration.dagster_plugins import executor_contract_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import messages, probe

KIND = dg.DagsterEventType
ENDS = {
    KIND.STEP_SUCCESS: "success",
    KIND.STEP_FAILURE: "failure",
    KIND.STEP_SKIPPED: "skipped",
    KIND.STEP_UP_FOR_RETRY: "again",
}


@dataclass(frozen=True)
class Expected:
    """How each step that is not a success ended, those that must not have started, and what the steps noted."""

    notes: list[str]
    ends: dict[str, str] = field(default_factory=dict)
    never: set[str] = field(default_factory=set)
    says: set[KIND] = field(default_factory=set)


EXPECTED = {
    "linear": Expected(["2"]),
    "fan_in": Expected(["[1, 2, 1]"]),
    "in_order_without_values": Expected(["1", "2", "after"]),
    "nested": Expected(["5"]),
    "fanned_out": Expected(["[2, 3, 4]"]),
    "fanned_out_with_a_failure": Expected(
        ["0", "2", "2"], {"fail_on_one[1]": "failure"}, never={"note[1]", "note_all"}
    ),
    "chosen": Expected(
        ["1", "[1]"], {"note_right": "skipped", "after_right": "skipped"}, never={"note_right", "after_right"}
    ),
    "failing": Expected(["1"], {"fail": "failure"}, never={"add_one", "dependent"}),
    "failing_in_words": Expected([], {"fail_in_words": "failure"}),
    "wrong_type": Expected([], {"return_text": "failure"}, never={"note"}),
    "missing_output": Expected([], {"forget_second": "failure"}, never={"note_first", "note_second"}),
    "asking_again": Expected(["1", "attempt 0", "attempt 1"], says={KIND.STEP_UP_FOR_RETRY, KIND.STEP_RESTARTED}),
    "asking_in_vain": Expected(["attempt 0", "attempt 1", "attempt 2"], {"ask_in_vain": "failure"}, never={"note"}),
    "retried_by_policy": Expected(["2", "attempt 0", "attempt 1", "attempt 2"], says={KIND.STEP_UP_FOR_RETRY}),
    "hooked": Expected(
        ["failure of fail: boom", "success of one"],
        {"fail": "failure"},
        says={KIND.HOOK_COMPLETED, KIND.HOOK_ERRORED, KIND.HOOK_SKIPPED},
    ),
    "saying_all": Expected(["[1, 2]"], says={KIND.ASSET_MATERIALIZATION, KIND.ASSET_OBSERVATION}),
    "asynchronous": Expected(
        ["['answer', 'answer', 'answer']", "down: answer", "up: answer"], {"fail_async": "failure"}
    ),
    "using_a_resource": Expected(["down", "up", "used resource"], {"fail": "failure"}),
    "assets": Expected(
        ["joined 3 of a"],
        {"failing_asset": "failure"},
        says={KIND.ASSET_MATERIALIZATION, KIND.ASSET_CHECK_EVALUATION},
    ),
}


def run(
    name: str, executor: str, instance: dg.DagsterInstance, *, folder: Path | None = None, **given: Any
) -> dg.JobExecutionResult:
    rebuilt = dg.build_reconstructable_job(jobs.__name__, "define", (name, executor, folder and str(folder)))
    return dg.execute_job(rebuilt, instance, **given)


def say_of_steps(result: dg.JobExecutionResult) -> dict[str, list[str]]:
    """What each step said, in order."""
    said: dict[str, list[str]] = {}
    for event in result.all_events:
        if event.step_key:
            said.setdefault(event.step_key, []).append(event.event_type_value)
    return said


@pytest.mark.parametrize("name", EXPECTED)
def test_a_job_ends_and_says_as_under_the_stock_executor(instance: dg.DagsterInstance, name: str) -> None:
    expected, said = EXPECTED[name], {}
    for executor in jobs.EXECUTORS:
        probe.reset()
        result = run(name, executor, instance, tags={"dagster/partition": "a"} if name == "assets" else None)
        ends = {event.step_key: ENDS[event.event_type] for event in result.all_events if event.event_type in ENDS}
        assert {key: end for key, end in ends.items() if end != "success"} == expected.ends
        assert sorted(probe.happened) == expected.notes
        said[executor] = say_of_steps(result)
        started = {event.step_key for event in result.all_events if event.event_type is KIND.STEP_START}
        assert expected.never.isdisjoint(started)
        assert {event.event_type for event in result.all_events} >= expected.says
        assert result.success is ("failure" not in ends.values())
        stored = instance.get_run_by_id(result.run_id)
        assert stored is not None
        assert stored.status is (dg.DagsterRunStatus.SUCCESS if result.success else dg.DagsterRunStatus.FAILURE)
    assert said["threaded"] == said["stock"]


@pytest.fixture(params=jobs.EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_an_empty_fan_out_reaches_the_collecting_step(instance: dg.DagsterInstance, executor: str) -> None:
    run_config = {"ops": {"fan_out": {"config": {"items": 0}}}}
    assert run("fanned_out", executor, instance, run_config=run_config).success
    assert probe.happened == ["[]"]


def test_raise_on_error_raises_the_users_own_error(instance: dg.DagsterInstance, executor: str) -> None:
    with pytest.raises(ValueError, match="boom"):
        run("failing", executor, instance, raise_on_error=True)
    (stored,) = instance.get_runs(limit=1)
    assert stored.status is dg.DagsterRunStatus.FAILURE


def test_a_resource_that_does_not_come_up_fails_the_run_before_any_step(
    instance: dg.DagsterInstance, executor: str
) -> None:
    result = run("using_a_broken_resource", executor, instance)
    assert not result.success
    assert len(messages(result, KIND.RESOURCE_INIT_FAILURE)) == 1
    assert messages(result, KIND.STEP_START) == []


def test_config_that_a_job_does_not_have_is_refused(instance: dg.DagsterInstance, executor: str) -> None:
    with pytest.raises(DagsterInvalidConfigError):
        run("linear", executor, instance, run_config={"ops": {"unknown": {}}})


def test_a_selection_of_steps_runs_alone(instance: dg.DagsterInstance, executor: str) -> None:
    result = run("failing", executor, instance, op_selection=["*note"])
    assert result.success
    assert set(say_of_steps(result)) == {"one", "note"}


def test_a_selection_of_assets_runs_alone(instance: dg.DagsterInstance, executor: str) -> None:
    key = dg.AssetKey("split_left")
    result = run("assets", executor, instance, asset_selection=[key], tags={"dagster/partition": "b"})
    assert result.success
    made = [event.asset_key for event in result.all_events if event.event_type is KIND.ASSET_MATERIALIZATION]
    assert made == [key]


def test_a_run_is_taken_up_again_from_its_failure(instance: dg.DagsterInstance, executor: str, tmp_path: Path) -> None:
    name = "fanned_out_with_a_failure"
    first = run(name, executor, instance, folder=tmp_path)
    options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
    again = run(name, executor, instance, folder=tmp_path, reexecution_options=options)
    assert set(say_of_steps(again)) == {"fail_on_one[1]"}
    assert "LOADED_INPUT" in say_of_steps(again)["fail_on_one[1]"]
    assert again.dagster_run.parent_run_id == first.run_id
    assert not again.success
