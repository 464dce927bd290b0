"""The embedded PostgreSQL after a crash: killed servers, stale and damaged pid files, an initdb cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox import postmaster
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.postgres_fixture import (
    ask,
    order,
    read_pid,
    run_server,
)
from raceday_dagster_tests.waiting import wait_for

IS_ROOT = os.geteuid() == 0


def kill_postmaster(server: EmbeddedPostgres) -> int:
    """kill -9, and wait until the process is no server any more."""
    pid, data_dir = read_pid(server), server.status().data_dir
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not postmaster.is_postmaster(pid, data_dir))
    return pid


def test_a_server_that_cannot_end_is_one_line(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmaster, "_IMMEDIATE_STOP_WAIT_S", 0)
    pid, data_dir = read_pid(server), server.status().data_dir
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SandboxError, match="does not end"):
            server.stop(within_s=0)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not postmaster.is_postmaster(pid, data_dir))


def test_a_server_that_ends_amid_a_statement_is_one_line_with_the_reason_from_its_log(server: EmbeddedPostgres) -> None:
    def end_amid_a_statement() -> None:
        with server.connect() as connection, server.status().log_file.open("a") as log:
            print("2026-01-01 UTC [1] PANIC:  could not write to file: No space left on device", file=log, flush=True)
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(SandboxError, match="answered: could not write to file: No space left on device"):
        end_amid_a_statement()


def test_kill_9_of_the_server_loses_nothing_committed(server: EmbeddedPostgres) -> None:
    order(server.superuser_url(), "CREATE TABLE committed AS SELECT 9 AS lives")
    killed = kill_postmaster(server)
    assert not server.status().running
    server.start()
    assert read_pid(server) != killed
    assert ask(server.superuser_url(), "SELECT lives FROM committed") == 9


def test_a_session_of_the_killed_server_that_still_works_is_waited_for(server: EmbeddedPostgres) -> None:
    status = server.status()
    # A loop without a wait in it does not notice that its server is gone.
    busy = "DO $$BEGIN LOOP EXIT WHEN (pg_stat_file('done', true)).size IS NOT NULL; END LOOP; END$$"
    active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
    with ThreadPoolExecutor(2) as threads:
        try:
            looping = threads.submit(order, server.superuser_url(), busy)
            wait_for(lambda: ask(server.superuser_url(), active) == 1)
            logged = status.log_file.stat().st_size
            kill_postmaster(server)
            starting = threads.submit(server.start)
            wait_for(lambda: b"memory block" in status.log_file.read_bytes()[logged:])
            assert not looping.done()
        finally:
            (status.data_dir / "done").touch()
        starting.result(timeout=60)
    assert server.status().running


def test_a_pid_file_that_names_somebody_elses_process_is_stale_and_that_process_is_left_alone(
    server: EmbeddedPostgres,
) -> None:
    owner = server.status().data_dir.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if IS_ROOT else {}
    # Of the server's own account: postgres would take the pid for a rival, and refuse.
    with subprocess.Popen(["sleep", "600"], cwd="/", **account) as bystander:
        try:
            pid_file = server.status().data_dir / "postmaster.pid"
            content = pid_file.read_text()
            killed = kill_postmaster(server)
            pid_file.write_text(content.replace(str(killed), str(bystander.pid), 1))
            assert not server.status().running
            server.stop()
            server.start()
            assert server.status().running
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_damaged_pid_file_is_survived(server: EmbeddedPostgres) -> None:
    kill_postmaster(server)
    (server.status().data_dir / "postmaster.pid").write_text("nonsense\n")
    server.start()
    assert server.status().running


def test_an_initdb_that_was_killed_is_redone(home: Path) -> None:
    code = "import sys; from pathlib import Path; from raceday_dagster.sandbox.postgres import EmbeddedPostgres\n"
    code += "EmbeddedPostgres(Path(sys.argv[1])).start()"
    server = EmbeddedPostgres(home, fsync=False)
    state_dir = server.status().data_dir.parent
    with subprocess.Popen([sys.executable, "-c", code, str(home)]) as starter:
        try:
            wait_for(lambda: any(state_dir.glob("making-*/PG_VERSION")))
        finally:
            starter.kill()
    assert not (state_dir / "data").exists()
    with run_server(home) as redone:
        assert ask(redone.superuser_url(), "SELECT 1") == 1
        assert not list(state_dir.glob("making-*/PG_VERSION"))
