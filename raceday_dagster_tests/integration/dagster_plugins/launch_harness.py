"""A code server, a Dagster instance on PostgreSQL that submits runs, and run servers to launch them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from raceday_dagster.dagster_plugins.forked_process import SOCKET
from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.dagster_plugins.run_launcher import RunWorker, find_run_worker
from raceday_dagster_tests.integration.dagster_plugins import launch_jobs
from raceday_dagster_tests.integration.postgres_fixture import ask
from raceday_dagster_tests.waiting import wait_for

SOON_S = 30.0
"""Generous: what is waited for takes a second, and never comes if something is broken."""
START_S = 90.0
"""For an interpreter and its imports on a machine under load."""
JOBS = launch_jobs.__name__
LOCATION = "tested"
DAGSTER_YAML = Path(__file__).parents[3] / "dagster.yaml"


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance configured as ours is, in a DAGSTER_HOME of its own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(DAGSTER_YAML.read_text(encoding="utf-8"), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@dataclass
class RunServerProcess:
    """A run server that listens."""

    process: psutil.Popen
    home: Path
    log: Path

    @property
    def socket(self) -> Path:
        return self.home / SOCKET

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SOON_S)


def build_run_server_command(home: Path) -> tuple[list[str], dict[str, str]]:
    """The command of a run server for a DAGSTER_HOME, and its environment."""
    command = [sys.executable, "-m", "raceday_dagster.dagster_plugins.run_server"]
    return command, os.environ | {"PYTHONWARNINGS": "default", "DAGSTER_HOME": str(home)}


@contextmanager
def open_run_server(home: Path) -> Iterator[RunServerProcess]:
    """At the end it is told to stop, and must do so."""
    log = home / "run-server.log"
    with log.open("w") as output:
        command, environment = build_run_server_command(home)
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for(lambda: process.poll() is not None or "run server ready" in log.read_text(), START_S)
        assert "run server ready" in log.read_text(), log.read_text()
        yield RunServerProcess(process, home, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SOON_S)
            except psutil.TimeoutExpired:
                process.kill()
                raise


def create_run(
    instance: dg.DagsterInstance,
    repository: RemoteRepository,
    job_name: str,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """A run of a code server's job that is not started yet, as a sensor makes it; its id."""
    job = repository.get_full_job(job_name)
    return instance.create_run(
        job_name=job_name,
        run_id=None,
        run_config=run_config,
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags=tags,
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
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        asset_graph=repository.asset_graph,
    ).run_id


@dataclass
class Launches:
    """An instance and a code server that serves a module's jobs; what a test does with their runs."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    url: str
    go: Path

    def create(self, job_name: str, run_config: Mapping[str, Any], *, live: bool = True) -> str:
        """A run that is not started yet, as a sensor makes it; its id."""
        request = self.workspace.create_request_context()
        (repository,) = request.get_code_location(LOCATION).get_repositories().values()
        tags = {LANE_TAG: LIVE} if live else {}
        return create_run(self.instance, repository, job_name, run_config, tags)

    def submit(self, run_id: str) -> None:
        self.instance.submit_run(run_id, self.workspace.create_request_context())

    def create_waiting(self, *, ignores_interrupts: bool = False, live: bool = True, go: Path | None = None) -> str:
        config = {"go": str(go or self.go), "ignores_interrupts": ignores_interrupts}
        return self.create("wait_job", {"ops": {"wait": {"config": config}}}, live=live)

    def start_waiting(self, *, ignores_interrupts: bool = False, go: Path | None = None) -> str:
        """A live run that is in the middle of its step."""
        run_id = self.create_waiting(ignores_interrupts=ignores_interrupts, go=go)
        self.submit(run_id)
        assert wait_for(lambda: "STEP_START" in self.read_events(run_id), SOON_S)
        return run_id

    def read_run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def read_status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.read_run(run_id).status

    def read_events(self, run_id: str) -> dict[str, str]:
        """Type to message of what the run did; of several of a type the last."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        return {event.event_type_value: event.message or "" for event in events if event is not None}

    def wait_until_ended(self, run_id: str) -> dg.DagsterRunStatus:
        assert wait_for(lambda: self.read_run(run_id).is_finished, SOON_S), self.read_events(run_id)
        return self.read_status(run_id)

    def find_worker(self, run_id: str) -> RunWorker:
        worker = find_run_worker(self.read_run(run_id))
        assert worker is not None
        return worker

    def is_stock_launch(self, run_id: str) -> bool:
        return find_run_worker(self.read_run(run_id)) is None

    def count_backends(self) -> int:
        """Connections to Dagster's database, without the one that asks."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        return int(str(ask(self.url, f"SELECT count(*) FROM pg_stat_activity WHERE {others}")))


@contextmanager
def open_launches(instance: dg.DagsterInstance, url: str, folder: Path) -> Iterator[Launches]:
    """Dagster's own code server up and asked, until the end of the block."""
    socket, log = folder / "s", folder / "code-server.log"
    command = ["dagster", "api", "grpc", "--module-name", JOBS, "--location-name", LOCATION, "--socket", str(socket)]
    with log.open("w") as output:
        server = psutil.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(lambda: server.poll() is not None or socket.exists(), START_S)
        assert socket.exists(), log.read_text()
        target = GrpcServerTarget(host="localhost", port=None, socket=str(socket), location_name=LOCATION)
        with WorkspaceProcessContext(instance, target) as workspace:
            yield Launches(instance, workspace, url, folder / "go")
    finally:
        for process in (*server.children(recursive=True), server):
            process.kill()
        server.wait(SOON_S)
