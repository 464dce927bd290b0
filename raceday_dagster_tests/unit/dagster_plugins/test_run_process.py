"""What is recorded of a run whose process died, how it names an end, and what of Dagster it stands on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from raceday_dagster.dagster_plugins import run_process
from raceday_dagster.dagster_plugins.run_process import (
    TRY_AGAIN,
    Death,
    describe_end,
    execute_run,
    record_cancelling,
    record_death,
)

Status = dg.DagsterRunStatus
REFERENCE: Any = None


class Instance:
    """An instance with one run, or none, and a log of what was reported of it."""

    should_start_background_run_thread = False

    def __init__(self, status: dg.DagsterRunStatus | None) -> None:
        self.run = dg.DagsterRun(job_name="process_races", run_id="r", status=status) if status else None
        self.said: list[tuple[str, str]] = []

    def get_run_by_id(self, _run_id: str) -> dg.DagsterRun | None:
        return self.run

    def report_run_failed(self, _run: dg.DagsterRun, message: str) -> None:
        self.said.append(("failed", message))

    def report_run_canceled(self, _run: dg.DagsterRun, message: str) -> None:
        self.said.append(("cancelled", message))

    def report_run_canceling(self, _run: dg.DagsterRun, message: str) -> None:
        self.said.append(("cancelling", message))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes an instance, or an error, what opening one comes to."""

    @contextmanager
    def open_instance(found: Instance | Exception) -> Iterator[Instance]:
        if isinstance(found, Exception):
            raise found
        yield found

    def set_up(found: Instance | Exception) -> None:
        monkeypatch.setattr(dg.DagsterInstance, "from_ref", lambda _reference: open_instance(found))

    return set_up


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status.STARTING, "failed"),
        (Status.STARTED, "failed"),
        (Status.CANCELING, "cancelled"),
        (Status.SUCCESS, None),
        (Status.FAILURE, None),
        (Status.CANCELED, None),
        (None, None),
    ],
)
def test_run_whose_process_died_has_failed_unless_it_was_cancelled_or_is_finished(
    opened: Any, status: dg.DagsterRunStatus | None, said: str | None
) -> None:
    instance = Instance(status)
    opened(instance)
    assert record_death(REFERENCE, Death("r", "why")) == 0
    assert instance.said == ([(said, "why")] if said else [])


@pytest.mark.parametrize(
    "error",
    [click.ClickException("away"), dg.DagsterError("away"), OperationalError("select", {}, Exception("away"))],
    ids=["our storage", "dagster", "sqlalchemy"],
)
def test_what_does_not_reach_the_database_is_a_line_in_the_log_and_tried_again(
    opened: Any, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(error)
    assert record_death(REFERENCE, Death("r", "why")) == TRY_AGAIN == 75
    assert record_cancelling(REFERENCE, ["r"]) == TRY_AGAIN
    death, cancelling = capsys.readouterr().err.splitlines()
    assert death.startswith('{"event": "run_end_not_recorded", "run_id": "r", "reason": "why"')
    assert cancelling.startswith('{"event": "run_cancelling_not_recorded", "run_ids": ["r"]')


@pytest.mark.parametrize(("status", "said"), [(Status.STARTED, True), (Status.SUCCESS, False), (None, False)])
def test_only_unfinished_runs_are_recorded_as_being_cancelled(
    opened: Any, status: dg.DagsterRunStatus | None, said: bool
) -> None:
    instance = Instance(status)
    opened(instance)
    assert record_cancelling(REFERENCE, ["r"]) == 0
    assert bool(instance.said) is said


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.SUCCESS, 0), (Status.FAILURE, 0), (None, 0), (Status.CANCELING, 1), (Status.STARTED, 1)],
)
def test_exit_code_of_a_run_says_whether_it_is_finished(
    opened: Any, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus | None, code: int
) -> None:
    opened(Instance(status))
    monkeypatch.setattr(run_process, "capture_interrupts", nullcontext)
    monkeypatch.setattr(run_process, "_execute_run_command_body", lambda *_, **_named: 0)
    assert execute_run(REFERENCE, "r") == code


@pytest.mark.parametrize(
    ("code", "said"),
    [(-9, "was killed by signal 9 (Killed)"), (-40, "was killed by signal 40"), (70, "ended with exit code 70")],
)
def test_end_of_a_process_is_named(code: int, said: str) -> None:
    assert describe_end(code).startswith(said)


def test_what_execute_run_stands_on_is_as_it_was() -> None:
    parameters = inspect.signature(run_process._execute_run_command_body).parameters
    assert list(parameters) == ["run_id", "instance", "write_stream_fn", "set_exit_code_on_failure"]
