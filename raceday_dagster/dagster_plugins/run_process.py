"""What the processes that the run server forks do: execute a run, call a function, record how a run's process ended.

Belongs here: whatever needs Dagster's database, which the run server does not have. Does not: when any of it is done.
Where a process is done with a function, that returns its exit code.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module

import click
import dagster as dg
from dagster._cli.api import _execute_run_command_body
from dagster._core.instance import InstanceRef
from dagster._utils.interrupts import capture_interrupts
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.dagster_plugins.forked_process import CallRequest

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit code (75) of a report that did not reach the database."""
UNFINISHED = 1
"""Exit code of a run's process that could not bring its run to an end."""
DATABASE_ERRORS = (SQLAlchemyError, dg.DagsterError, click.ClickException)
"""What a database that cannot be reached comes to; our storage raises the last."""


@dataclass(frozen=True)
class Death:
    """The end of a run's process that the run itself could not record."""

    run_id: str
    reason: str


def call(request: CallRequest, descriptor: int) -> int | None:
    """Call the function of a request; its exit code."""
    module, _, name = request.function.partition(":")
    code: int | None = getattr(import_module(module), name)(descriptor, *request.arguments)
    return code


def execute_run(reference: InstanceRef, run_id: str) -> int:
    """Execute a run in this process, as `dagster api execute_run` does, but for its list of serialised events."""
    with capture_interrupts(), dg.DagsterInstance.from_ref(reference) as instance:
        _execute_run_command_body(run_id, instance, lambda _event: None, set_exit_code_on_failure=False)
        run = instance.get_run_by_id(run_id)
        # One that was cancelled before it began, for example, is not finished: somebody must say so.
        return UNFINISHED if run is not None and not run.is_finished else 0


def record_end(instance: dg.DagsterInstance, run_id: str, reason: str) -> dg.DagsterRun | None:
    """Mark a run whose process is gone as failed, or as cancelled if that was asked for, unless it is finished: then,
    or if it was deleted, the answer is `None`."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return None
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message=reason)
    else:
        instance.report_run_failed(run, message=reason)
    return run


def record_death(reference: InstanceRef, death: Death) -> int:
    """`record_end` in a process that is forked for it."""
    try:
        with dg.DagsterInstance.from_ref(reference) as instance:
            record_end(instance, death.run_id, death.reason)
    except DATABASE_ERRORS as error:
        warn("run_end_not_recorded", run_id=death.run_id, reason=death.reason, error=str(error))
        return TRY_AGAIN
    return 0


def record_cancelling(reference: InstanceRef, run_ids: Sequence[str]) -> int:
    """Say of runs that they are being cancelled."""
    try:
        with dg.DagsterInstance.from_ref(reference) as instance:
            for run_id in run_ids:
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_canceling(run, message="The run server is stopping.")
    except DATABASE_ERRORS as error:
        warn("run_cancelling_not_recorded", run_ids=list(run_ids), error=str(error))
        return TRY_AGAIN
    return 0


def describe_end(code: int) -> str:
    """How a process ended, as the rest of a sentence."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"


def warn(event: str, **facts: object) -> None:
    """One JSON object a line on standard error, as the runs of this project log."""
    with suppress(OSError):
        line = {"event": event, **facts, "level": "warning", "time": datetime.now(UTC).isoformat()}
        sys.stderr.write(json.dumps(line) + "\n")
