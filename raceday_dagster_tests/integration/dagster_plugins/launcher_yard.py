"""A code server process for the launcher's tests, with a Dagster instance on PostgreSQL that submits runs to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import sqlalchemy as sa
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient

from raceday_dagster.dagster_plugins.launcher import LANE_TAG, LIVE
from raceday_dagster.dagster_plugins.storage import normalise_url
from raceday_dagster.sandbox.postmaster import wait_for

SOON_S = 30.0
"""Generous: what is waited for takes a second, and never comes if something is broken."""
JOBS = "raceday_dagster_tests.integration.dagster_plugins.launcher_jobs"
SERVE_JOBS = (
    f"import sys; from raceday_dagster import launcher; launcher.serve(sys.argv[1:], [{JOBS!r}])",
    "--module-name",
    JOBS,
    "--location-name",
    "waiting",
)


@dataclass
class Yard:
    """A running code server and the instance that launches on it."""

    instance: dg.DagsterInstance
    server: psutil.Popen
    log: Path
    workspace: WorkspaceProcessContext
    url: str
    go: Path
    location: str
    _workers: dict[str, psutil.Process] = field(default_factory=dict)

    def create(self, job_name: str, run_config: Mapping[str, Any], *, live: bool = True) -> str:
        """A run that is not started yet, as a sensor makes it; its id."""
        request = self.workspace.create_request_context()
        (repository,) = request.get_code_location(self.location).get_repositories().values()
        job = repository.get_full_job(job_name)
        origin = job.get_remote_origin()
        return self.instance.create_run(
            job_name=job_name,
            run_id=None,
            run_config=run_config,
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags={LANE_TAG: LIVE} if live else {},
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=None,
            execution_plan_snapshot=None,
            job_snapshot=job.job_snapshot,
            parent_job_snapshot=None,
            asset_selection=None,
            asset_check_selection=None,
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=origin,
            job_code_origin=job.get_python_origin(),
            asset_graph=None,
        ).run_id

    def submit(self, run_id: str) -> None:
        self.instance.submit_run(run_id, self.workspace.create_request_context())

    def start_waiting(self, *, deaf: bool = False) -> str:
        """A live run that is in the middle of its step."""
        run_id = self.create_waiting(deaf=deaf)
        self.submit(run_id)
        assert wait_for(lambda: "STEP_START" in self.read_events(run_id), SOON_S), self.log.read_text()
        self._workers[run_id] = self.find_worker(run_id)
        return run_id

    def create_waiting(self, *, deaf: bool = False, live: bool = True) -> str:
        config = {"ops": {"wait": {"config": {"go": str(self.go), "deaf": deaf}}}}
        return self.create("wait_job", config, live=live)

    def read_status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def read_events(self, run_id: str) -> dict[str, str]:
        """Type to message of what the run did; of several of a type the last."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        return {event.event_type_value: event.message or "" for event in events if event is not None}

    def wait_until_ended(self, run_id: str) -> dg.DagsterRunStatus:
        def has_ended() -> bool:
            run = self.instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        assert wait_for(has_ended, SOON_S), self.log.read_text()
        return self.read_status(run_id)

    def find_worker(self, run_id: str) -> psutil.Process:
        """The process of a run, as its first event names it."""
        if run_id in self._workers:
            return self._workers[run_id]
        for entry in self.instance.all_logs(run_id):
            event = entry.dagster_event
            if event is not None and (event.message or "").startswith("Started process for run"):
                pid = event.engine_event_data.metadata["pid"].value
                return psutil.Process(int(str(pid)))
        raise AssertionError("no event names the process of the run")

    def has_worker_left(self, run_id: str) -> bool:
        worker = self._workers[run_id]
        return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE

    def find_fork_server(self) -> psutil.Process:
        (found,) = [child for child in self.server.children() if "forkserver" in " ".join(child.cmdline())]
        return found

    def count_backends(self) -> int:
        """Connections to Dagster's database, without the one that asks."""
        engine = sa.create_engine(normalise_url(self.url), poolclass=sa.NullPool)
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        with engine.connect() as connection:
            count = connection.execute(sa.text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"))
            return int(count.scalar_one())


@contextmanager
def open_yard(
    instance: dg.DagsterInstance,
    url: str,
    folder: Path,
    command: Sequence[str] = ("-c", *SERVE_JOBS),
    location: str = "waiting",
) -> Iterator[Yard]:
    """The code server up and asked; at the end it is told to stop, and leaves no process."""
    folder.mkdir(exist_ok=True)
    socket, log = folder / "s", folder / "log"
    with log.open("w") as output:
        server = psutil.Popen(
            [sys.executable, *command, "--socket", str(socket)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONWARNINGS": "default"},
            start_new_session=True,
        )
    try:
        wait_for(lambda: server.poll() is not None or _answers(socket), SOON_S)
        assert server.poll() is None, log.read_text()
        target = GrpcServerTarget(host="localhost", port=None, socket=str(socket), location_name=location)
        with WorkspaceProcessContext(instance, target) as workspace:
            yield Yard(instance, server, log, workspace, url, folder / "go", location)
    finally:
        left = [server, *server.children(recursive=True)] if server.poll() is None else []
        if left:
            server.terminate()
        _gone, alive = psutil.wait_procs(left, timeout=SOON_S)
        for process in alive:
            process.kill()
        assert not alive, log.read_text()


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    try:
        DagsterGrpcClient(socket=str(socket)).ping("")
    except dg.DagsterError:
        return False
    return True
