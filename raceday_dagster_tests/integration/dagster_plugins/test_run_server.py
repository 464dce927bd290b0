"""Runs launched for real: a code server, a run server, runs in processes of their own, storage on PostgreSQL."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from sqlalchemy import make_url, text

from raceday_dagster.dagster_plugins import run_server
from raceday_dagster.dagster_plugins.forked_process import (
    SOCKET_VARIABLE,
    UNKNOWN,
    CallRequest,
    ForkedProcess,
    PingRequest,
    RunServerError,
    ask,
    connect,
    fork_call,
)
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.dagster_plugins.launch_harness import (
    JOBS,
    SOON_S,
    Launches,
    RunServerProcess,
    build_run_server_command,
    open_instance,
    open_launches,
    open_run_server,
)
from raceday_dagster_tests.integration.postgres_fixture import make_database
from raceday_dagster_tests.integration.race_day import RaceDay, open_race_day
from raceday_dagster_tests.waiting import wait_for

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
    """A home whose path is too long for a socket."""
    return tmp_path_factory.mktemp("long" * 40) / "home"


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    """A racing day, in the environment of every process that is started from here on."""
    with open_race_day(database_url) as day:
        yield day


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


@contextmanager
def connections_refused(server: EmbeddedPostgres, url: str) -> Iterator[None]:
    """Dagster's database takes no connection, and has ended those it had."""
    name = make_url(url).database
    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        try:
            yield
        finally:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))


def start_echo(exit_code: int) -> tuple[ForkedProcess, socket.socket]:
    """A forked process that calls `echo`, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = fork_call(f"{JOBS}:echo", theirs.fileno(), str(exit_code))
    ours.settimeout(SOON_S)
    return process, ours


@pytest.fixture(scope="class")
def shared_server(instance: dg.DagsterInstance, home: Path, day: RaceDay) -> Iterator[RunServerProcess]:
    with open_run_server(home) as server:
        yield server
    assert not (home / "run-server.sock").exists()


@pytest.fixture
def server(
    shared_server: RunServerProcess, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunServerProcess]:
    """With nothing of the test left at the end."""
    monkeypatch.setenv(SOCKET_VARIABLE, str(shared_server.socket))
    backends, descriptors = launches.count_backends(), shared_server.process.num_fds()
    yield shared_server
    launches.go.touch()
    assert wait_for(lambda: launches.count_backends() <= backends, SOON_S), "a connection is left"
    assert wait_for(lambda: shared_server.process.num_fds() <= descriptors, SOON_S), "a descriptor is left"
    assert wait_for(lambda: not shared_server.process.children(), SOON_S), "a child is left"


class TestRunServerThatWorks:
    """A server that these tests share and leave working."""

    def test_batch_of_races_runs_in_a_fork_without_a_warning(
        self, launches: Launches, server: RunServerProcess, day: RaceDay
    ) -> None:
        races = day.race_ids[:2]
        run_id = launches.create("process_races", {"ops": {"select_races": {"config": {"race_ids": races}}}})
        launches.submit(run_id)
        assert launches.wait_until_ended(run_id) is Status.SUCCESS
        assert not launches.is_stock_launch(run_id)
        assert set(day.read_polls(run_id)) == set(races)
        said = server.log.read_text()
        assert "Warning" not in said
        assert "leaked" not in said

    def test_live_run_is_a_fork_of_the_server_and_is_cancelled_on_request(
        self, launches: Launches, server: RunServerProcess
    ) -> None:
        assert server.process.num_threads() == 1
        assert server.socket.stat().st_mode & 0o777 == 0o600, "whoever may connect may run any function"
        run_id = launches.start_waiting()
        worker = launches.find_worker(run_id)
        process = psutil.Process(worker.pid)
        assert process.ppid() == server.process.pid
        assert os.getsid(worker.pid) == worker.pid
        assert process.environ() == server.process.environ(), "a fork, and no new program"
        assert "run-server.lock" not in str(process.open_files())
        launcher = launches.instance.run_launcher
        assert launcher.check_run_worker_health(launches.read_run(run_id)).status is WorkerStatus.RUNNING
        assert launches.instance.run_coordinator.cancel_run(run_id)
        assert launches.wait_until_ended(run_id) is Status.CANCELED
        assert wait_for(lambda: not worker.is_alive(), SOON_S)
        assert launcher.check_run_worker_health(launches.read_run(run_id)).status is WorkerStatus.NOT_FOUND
        assert not launches.instance.run_coordinator.cancel_run(run_id)

    def test_killed_worker_is_a_failed_run_and_costs_no_other(
        self, launches: Launches, server: RunServerProcess
    ) -> None:
        survivor, victim = launches.start_waiting(), launches.start_waiting()
        worker = launches.find_worker(victim)
        os.kill(worker.pid, signal.SIGKILL)
        assert launches.wait_until_ended(victim) is Status.FAILURE
        assert (
            f"Process {worker.pid} of this run was killed by signal 9 (Killed)."
            in launches.read_events(victim)["PIPELINE_FAILURE"]
        )
        launches.go.touch()
        assert launches.wait_until_ended(survivor) is Status.SUCCESS

    def test_run_cancelled_before_it_began_is_recorded_as_cancelled_by_the_server(
        self, launches: Launches, server: RunServerProcess
    ) -> None:
        run_id = launches.create_waiting()
        launches.instance.report_run_canceling(launches.read_run(run_id))
        launches.submit(run_id)
        with connect(server.socket) as connection:
            ask(connection, run_server.RunRequest(run_id=run_id))
        assert launches.wait_until_ended(run_id) is Status.CANCELED

    def test_death_is_recorded_when_the_database_is_back(
        self, launches: Launches, server: RunServerProcess, embedded_postgres: EmbeddedPostgres
    ) -> None:
        run_id = launches.start_waiting()
        worker = launches.find_worker(run_id)
        with connections_refused(embedded_postgres, launches.url):
            os.kill(worker.pid, signal.SIGKILL)
            assert wait_for(lambda: "run_end_not_recorded" in server.log.read_text(), SOON_S)
        assert launches.wait_until_ended(run_id) is Status.FAILURE

    def test_queued_runs_start_one_at_a_time_beside_live_ones(
        self, launches: Launches, server: RunServerProcess
    ) -> None:
        live = launches.start_waiting()
        queued = [launches.create_waiting(live=False) for _ in range(3)]
        for run_id in queued:
            launches.submit(run_id)
            assert launches.read_status(run_id) is Status.QUEUED
        with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
            for _ in range(2):
                list(daemon.run_iteration(launches.workspace))
        first, *others = (launches.read_status(run_id) for run_id in queued)
        assert first in {Status.STARTING, Status.STARTED}
        assert others == [Status.QUEUED, Status.QUEUED]
        for run_id in queued[1:]:
            assert launches.instance.run_coordinator.cancel_run(run_id)
            assert launches.read_status(run_id) is Status.CANCELED
        assert launches.read_status(live) is Status.STARTED
        launches.go.touch()
        assert [launches.wait_until_ended(run_id) for run_id in (live, queued[0])] == [Status.SUCCESS] * 2

    def test_call_is_a_fork_that_is_given_a_descriptor_and_whose_exit_code_comes_back(
        self, server: RunServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process, pipe = start_echo(3)
        with pipe:
            assert pipe.recv(100).decode() == f"{process.pid} {process.pid}", "it leads a session"
            assert process.is_alive()
            process.join(0)
            assert process.exitcode is None
            pipe.send(b".")
            process.join()
        assert (process.exitcode, process.is_alive()) == (3, False)
        process.close()
        for elsewhere in ("", str(server.log)):
            monkeypatch.setenv(SOCKET_VARIABLE, elsewhere)
            with pytest.raises(OSError, match=r"refused|directory|socket"):
                fork_call(f"{JOBS}:echo", 0)

    def test_killed_call_closes_its_descriptor_whatever_was_forked_beside_it(self, server: RunServerProcess) -> None:
        process, pipe = start_echo(0)
        other, other_pipe = start_echo(0)
        with pipe, other_pipe:
            for each in (pipe, other_pipe):
                assert each.recv(100)
            process.kill()
            assert pipe.recv(1) == b""
            process.join()
            assert process.exitcode == -signal.SIGKILL
            other_pipe.send(b".")
            other.join()
        assert other.exitcode == 0
        for each_process in (process, other):
            each_process.close()

    def test_call_of_a_function_that_is_not_there_ends_with_an_exit_code_of_its_own(
        self, server: RunServerProcess
    ) -> None:
        process = fork_call(f"{JOBS}:no_such_function", 0)
        process.join()
        assert process.exitcode == run_server.CRASHED
        assert "no_such_function" in server.log.read_text()
        process.close()

    def test_ping_is_answered_by_the_server_itself(self, server: RunServerProcess) -> None:
        with connect(server.socket) as connection:
            assert ask(connection, PingRequest(ping=True)).pid == server.process.pid

    @pytest.mark.parametrize(
        "raw", [b"no JSON", b"[]", b"{}", b'{"run_id": 1}', b'{"run_id": "a", "x": 1}', b"\xff", b"[" * 60_000]
    )
    def test_malformed_request_is_refused_and_harms_nobody(self, server: RunServerProcess, raw: bytes) -> None:
        with connect(server.socket) as connection, connect(server.socket) as silent:
            connection.send(raw)
            assert b'"error"' in connection.recv(100_000)
            silent.close()
        with connect(server.socket) as connection, pytest.raises(RunServerError, match="needs a descriptor"):
            ask(connection, CallRequest(function=f"{JOBS}:echo"))

    def test_request_for_a_run_that_does_not_exist_leaves_the_server_working(self, server: RunServerProcess) -> None:
        with connect(server.socket) as connection:
            worker = ask(connection, run_server.RunRequest(run_id="no such run"))
        assert wait_for(lambda: not worker.is_alive(), SOON_S)
        assert wait_for(lambda: not server.process.children(), SOON_S)
        assert server.process.is_running()

    def test_socket_that_somebody_removed_is_made_again_and_said_once(self, server: RunServerProcess) -> None:
        server.socket.unlink()
        assert wait_for(lambda: "run_server_socket_made_again" in server.log.read_text(), SOON_S)
        assert server.socket.stat().st_mode & 0o777 == 0o600
        process, pipe = start_echo(0)
        with pipe:
            assert pipe.recv(100)
            pipe.send(b".")
            process.join()
        assert process.exitcode == 0
        process.close()
        assert server.log.read_text().count("run_server_socket_made_again") == 1

    def test_second_server_for_a_home_is_refused(self, server: RunServerProcess) -> None:
        command, environment = build_run_server_command(server.home)
        second = subprocess.run(command, env=environment, capture_output=True, timeout=SOON_S, check=False)
        assert second.returncode == 1
        assert f"another run server works for {server.home}" in second.stderr.decode()
        connect(server.socket).close()


def test_killed_server_costs_no_run_and_the_next_launches_are_the_stock_one_and_then_of_its_successor(
    launches: Launches, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run_server(home) as server:
        monkeypatch.setenv(SOCKET_VARIABLE, str(server.socket))
        forked = launches.start_waiting()
        process, pipe = start_echo(0)
        server.kill()
    with pipe:
        process.join()
        assert process.exitcode == UNKNOWN
        assert process.is_alive(), "its run still needs it"
        with pytest.raises(ConnectionRefusedError):
            fork_call(f"{JOBS}:echo", pipe.fileno())
        process.kill()
        assert wait_for(lambda: not process.is_alive(), SOON_S)
    process.close()
    stock = launches.start_waiting()
    assert launches.is_stock_launch(stock)
    with open_run_server(home):  # on the socket that the dead one left
        successors = launches.start_waiting()
        assert launches.find_worker(successors).is_alive()
        assert launches.find_worker(forked).is_alive()
        for run_id in (forked, stock):
            assert launches.instance.run_coordinator.cancel_run(run_id)
            assert launches.wait_until_ended(run_id) is Status.CANCELED
        launches.go.touch()
        assert launches.wait_until_ended(successors) is Status.SUCCESS


def test_server_told_to_stop_lets_short_runs_finish_cancels_long_ones_and_kills_those_that_do_not_end(
    launches: Launches, home: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with open_run_server(home) as server:
        short, long = launches.start_waiting(go=go), launches.start_waiting()
        deaf, suspended = launches.start_waiting(ignores_interrupts=True), launches.start_waiting()
        runs = (short, long, deaf, suspended)
        workers = [launches.find_worker(run_id) for run_id in runs]
        os.kill(workers[-1].pid, signal.SIGSTOP)
        server.process.terminate()
        assert wait_for(lambda: not server.socket.exists(), SOON_S), "it still launches runs"
        go.touch()
        assert server.process.wait(STOPS_WITHIN_S) == 0
        assert not [worker for worker in workers if worker.is_alive()]
        killed = re.findall(r'"run_killed", "run_id": "([^"]+)"', server.log.read_text())
        assert {deaf, suspended} <= set(killed)
        assert [launches.read_status(run_id) for run_id in runs] == [Status.SUCCESS, *[Status.CANCELED] * 3]


def test_server_told_to_stop_without_a_database_ends_its_runs_in_time(
    launches: Launches, home: Path, embedded_postgres: EmbeddedPostgres
) -> None:
    with open_run_server(home) as server:
        run_id = launches.start_waiting()
        worker = launches.find_worker(run_id)
        with connections_refused(embedded_postgres, launches.url):
            server.process.terminate()
            assert server.process.wait(STOPS_WITHIN_S) == 0
            assert not worker.is_alive()
        assert launches.read_status(run_id) is Status.STARTED
        launcher = launches.instance.run_launcher
        assert launcher.check_run_worker_health(launches.read_run(run_id)).status is WorkerStatus.NOT_FOUND
        launches.instance.report_run_failed(launches.read_run(run_id))
