"""Runs launched for real: a code server, a run server, runs in processes of their own, storage on PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.launcher import WorkerStatus

from raceday_dagster.dagster_plugins import run_server
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.postmaster import wait_for
from raceday_dagster_tests.integration.dagster_plugins.launch_harness import (
    SOON_S,
    Launches,
    RunServerProcess,
    open_instance,
    open_launches,
    open_run_server,
)
from raceday_dagster_tests.integration.postgres_fixture import make_database

STOPS_WITHIN_S = run_server.FINISH_WITHIN_S + run_server.CANCEL_WITHIN_S + run_server.RECORD_WITHIN_S + 2.0
"""And as much again as it promises, for a machine under load."""
Status = dg.DagsterRunStatus


@pytest.fixture(scope="module")
def url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for Dagster."""
    with make_database(embedded_postgres) as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_PG_URL", url)
        yield url


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def instance(url: str, home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(home) as instance:
        yield instance


@pytest.fixture(scope="module")
def code_server(instance: dg.DagsterInstance, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launches]:
    with open_launches(instance, url, tmp_path_factory.mktemp("code-server")) as launches:
        yield launches


@pytest.fixture
def launches(code_server: Launches) -> Iterator[Launches]:
    """With no run under way at either end."""
    code_server.go.unlink(missing_ok=True)
    yield code_server
    code_server.go.touch()
    for record in code_server.instance.get_runs(
        dg.RunsFilter(statuses=[Status.STARTED, Status.STARTING, Status.CANCELING])
    ):
        code_server.wait_until_ended(record.run_id)


@pytest.fixture(scope="module")
def shared_server(instance: dg.DagsterInstance, home: Path) -> Iterator[RunServerProcess]:
    with open_run_server(home) as server:
        yield server


class TestRunServerThatWorks:
    """Tests that leave it working."""

    @pytest.fixture
    def server(self, shared_server: RunServerProcess, launches: Launches) -> Iterator[RunServerProcess]:
        before = launches.count_backends()
        yield shared_server
        launches.go.touch()
        assert wait_for(lambda: launches.count_backends() <= before, SOON_S), "a connection is left"

    def test_live_run_is_a_fork_of_the_server_and_is_cancelled_on_request(
        self, launches: Launches, server: RunServerProcess
    ) -> None:
        run_id = launches.start_waiting()
        worker = launches.find_worker(run_id)
        process = psutil.Process(worker.pid)
        assert process.ppid() == server.process.pid
        assert os.getsid(worker.pid) == worker.pid
        assert not [c for c in process.open_files() if "run-server.lock" in c.path]
        assert launches.instance.run_launcher.check_run_worker_health(launches.read_run(run_id)).status is (
            WorkerStatus.RUNNING
        )
        assert launches.instance.run_coordinator.cancel_run(run_id)
        assert launches.wait_until_ended(run_id) is Status.CANCELED
        assert wait_for(lambda: not worker.is_alive(), SOON_S)
        assert not launches.instance.run_coordinator.cancel_run(run_id)
