"""How a run reaches a machine of a cluster: name `ClusterRunLauncher` in `dagster.yaml` (extra `cluster`)."""

from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import dagster as dg
from dagster import _check as check
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tasks import create_execute_job_task
from kombu.exceptions import OperationalError

from raceday_dagster.dagster_plugins.machines import MACHINE_TAG, is_lost, read_machines

INTERRUPT = "interrupt_run"
"""The remote control command by which the machine that has a run interrupts it."""


class ClusterRunLauncher(CeleryRunLauncher):
    """Dagster's Celery launcher, which knows a dead machine by its heartbeat and not by what the broker remembers.

    Config: that of `CeleryRunLauncher`.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Raises `DagsterError`: the broker does not take the run."""
        run = context.dagster_run
        arguments = ExecuteRunArgs(
            job_origin=check.not_none(run.job_code_origin),
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        try:
            # Without the tag that Dagster's launcher adds afterwards: two processes that add tags to a run at the same
            # moment take each other's away, and the machine has its own to add.
            self._execute_job.apply_async(
                kwargs={"execute_job_args_packed": pack_value(arguments)},
                task_id=run.run_id,
                expires=self._instance.run_monitoring_start_timeout_seconds,  # the run has failed by then
                queue=self.default_queue,
                routing_key=f"{self.default_queue}.{TASK_EXECUTE_JOB_NAME}",
            )
        except (OperationalError, OSError) as error:
            raise dg.DagsterError(f"BROKER_URL: the broker does not take the run: {error}") from error

    @cached_property
    def _execute_job(self) -> Any:
        """Dagster's launcher makes this task again for each run, and Celery keeps every one of them."""
        return create_execute_job_task(self.celery)

    def terminate(self, run_id: str) -> bool:
        """Whether there was a run to interrupt. Every machine is asked; nobody waits for the answer."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        try:
            self.celery.control.broadcast(INTERRUPT, arguments={"run_id": run_id})
        except (OperationalError, OSError) as error:
            message = f"BROKER_URL: no machine can be asked to interrupt this run: {error}"
            self._instance.report_engine_event(message, run, cls=self.__class__)
            return False
        return True

    @property
    def supports_resume_run(self) -> bool:
        return False

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What Dagster's run monitoring asks of each run under way."""
        if is_lost(run, read_machines(self._instance), datetime.now(UTC)):
            return CheckRunHealthResult(
                WorkerStatus.NOT_FOUND, f"machine {run.tags[MACHINE_TAG]} of this run gives no sign of life"
            )
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002
        """Which machine had a run, for the message of one that failed."""
        if run.status is dg.DagsterRunStatus.STARTING:
            return "no machine has taken it: is a `raceday worker` running?"
        return f"machine {run.tags.get(MACHINE_TAG)} had it"
