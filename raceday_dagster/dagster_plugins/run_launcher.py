"""How a run gets its process: name `RunServerLauncher` in `dagster.yaml`."""

import signal
from pathlib import Path

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from pydantic import ValidationError

from raceday_dagster.dagster_plugins.forked_process import (
    SOCKET,
    ProcessIdentity,
    RunRequest,
    RunServerError,
    ask,
    connect,
)

WORKER_TAG = "raceday/worker"


class RunWorker(ProcessIdentity):
    """The process of a run that the run server launched: the value of the tag `WORKER_TAG`, as JSON."""

    run_id: str
    """Dagster copies the tags of a run to its re-execution, which is not this process's."""


def find_run_worker(run: dg.DagsterRun) -> RunWorker | None:
    """The process of a run, or `None` for a run that no run server launched, such as `dagster job execute`."""
    try:
        worker = RunWorker.model_validate_json(run.tags.get(WORKER_TAG, ""))
    except ValidationError:
        return None
    return worker if worker.run_id == run.run_id else None


class RunServerLauncher(dg.DefaultRunLauncher):
    """Launches a run as a fork of the run server of its DAGSTER_HOME; without one, as Dagster's default launcher does.

    Ending a run and looking after it need no server. Config: none.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Raises `DagsterError`: a run server took the request, but no process of the run is known.

        Nothing is launched a second time then: the process may exist. It ignores a run that has failed meanwhile.
        """
        run = context.dagster_run
        try:
            connection = connect(Path(self._instance.root_directory, SOCKET))
        except OSError:
            super().launch_run(context)
            return
        with connection:
            try:
                process = ask(connection, RunRequest(run_id=run.run_id))
            except RunServerError as error:
                raise dg.DagsterError(f"This run has no process: {error}") from error
        worker = RunWorker(run_id=run.run_id, **process.model_dump())
        self._instance.add_run_tags(run.run_id, {WORKER_TAG: worker.model_dump_json()})

    def terminate(self, run_id: str) -> bool:
        """Whether the run's process was there to be interrupted."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        worker = find_run_worker(run)
        if worker is None:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        if worker.send_signal(signal.SIGINT):
            return True
        message = f"Process {worker.pid} on {worker.host} cannot be interrupted: it is gone, or on another machine."
        self._instance.report_engine_event(message, run, cls=self.__class__)
        return False

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What Dagster's run monitoring asks of each run under way. It bounds the time of runs that cannot be seen."""
        worker = find_run_worker(run)
        if worker is None or not worker.is_here() or worker.is_alive():
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"process {worker.pid} of this run is gone")
