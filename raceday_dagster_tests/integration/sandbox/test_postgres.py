"""The embedded PostgreSQL in health: starts, stops, who can reach it, roles and databases.

What stops a server runs on one of the module's own, never on the one that the session shares.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.postgres_fixture import (
    ask,
    make_database,
    order,
    read_pid,
    run_server,
)

IS_ROOT = os.geteuid() == 0


def test_a_second_start_finds_the_running_server(server: EmbeddedPostgres) -> None:
    pid = read_pid(server)
    server.start()
    assert read_pid(server) == pid


def test_the_server_listens_on_a_socket_in_a_private_folder_and_on_nothing_else(server: EmbeddedPostgres) -> None:
    status = server.status()
    assert ask(server.superuser_url(), "SHOW listen_addresses") == ""
    assert ask(server.superuser_url(), "SHOW unix_socket_directories") == str(status.socket_dir)
    assert status.socket_dir.stat().st_mode & 0o777 == 0o700
    assert status.data_dir.stat().st_mode & 0o777 == 0o700


def test_the_server_does_not_run_as_root_and_not_in_the_callers_session(server: EmbeddedPostgres) -> None:
    pid = read_pid(server)
    assert Path(f"/proc/{pid}").stat().st_uid not in ([0] if IS_ROOT else [])
    assert os.getsid(pid) != os.getsid(0)


def test_two_starters_at_once_get_one_server(home: Path) -> None:
    together = threading.Barrier(2)

    def start() -> int:
        server = EmbeddedPostgres(home, fsync=False)
        together.wait(timeout=60)
        server.start()
        return read_pid(server)

    with ThreadPoolExecutor(2) as threads:
        starters = [threads.submit(start), threads.submit(start)]
    with run_server(home) as server:
        assert {starter.result() for starter in starters} == {read_pid(server)}


def test_the_data_survives_a_stop(server: EmbeddedPostgres) -> None:
    order(server.superuser_url(), "CREATE TABLE kept AS SELECT 7 AS lucky")
    server.stop()
    assert not server.status().running
    server.start()
    assert ask(server.superuser_url(), "SELECT lucky FROM kept") == 7


def test_a_stop_and_a_status_before_the_first_start_make_nothing(home: Path) -> None:
    never = EmbeddedPostgres(home / "never")
    never.stop()
    assert (never.status().running, never.status().pid) == (False, None)
    assert not (home / "never").exists()


def test_a_stop_does_not_wait_for_an_open_transaction(server: EmbeddedPostgres) -> None:
    engine = create_engine(server.superuser_url(), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        server.stop()
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
        connection.invalidate()


def test_nothing_of_the_callers_environment_reaches_the_server(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setenv("NZTAB_PARTNER_ID", "not-for-the-server")
    server.start()
    assert b"not-for-the-server" not in Path(f"/proc/{read_pid(server)}/environ").read_bytes()


def test_the_application_role_owns_its_database_and_is_held_to_its_connections(server: EmbeddedPostgres) -> None:
    url = server.create_database("raceday", owner="raceday", connection_limit=2)
    assert server.create_database("raceday", owner="raceday", connection_limit=3) == url
    assert url.startswith("postgresql+psycopg2://raceday@/raceday?host=/")
    order(url, "CREATE TABLE mine (id int)")
    engines = [create_engine(url, poolclass=NullPool) for _ in range(3)]
    connections = [engine.connect() for engine in engines]
    try:
        with pytest.raises(OperationalError, match="too many connections for role"):
            ask(url, "SELECT 1")
    finally:
        for connection in connections:
            connection.close()
    assert ask(server.superuser_url(), "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname='raceday'") is False


def test_a_database_is_copied_from_a_template_and_dropped_with_its_connections(server: EmbeddedPostgres) -> None:
    order(server.create_database("pattern", owner="dagster", connection_limit=60), "CREATE TABLE shape (id int)")
    url = server.create_database("copied", owner="dagster", connection_limit=60, template="pattern")
    engine: Engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM shape")) == 0
        server.drop_database("copied")
        server.drop_database("copied")
        connection.invalidate()
    with pytest.raises(OperationalError, match="does not exist"):
        ask(url, "SELECT 1")


def test_a_server_that_is_down_is_one_line_with_the_command(server: EmbeddedPostgres) -> None:
    server.stop()
    with pytest.raises(SandboxError, match=r"^[^\n]*raceday db start[^\n]*$"):
        server.create_database("raceday", owner="raceday", connection_limit=10)


def test_a_test_database_refuses_to_end_with_a_connection_checked_out(embedded_postgres: EmbeddedPostgres) -> None:
    database = make_database(embedded_postgres, busy_wait_s=0)
    with create_engine(database.__enter__(), poolclass=NullPool).connect() as forgotten:
        forgotten.execute(text("SELECT 'forgotten'"))
        with pytest.raises(AssertionError, match="SELECT 'forgotten'"):
            database.__exit__(None, None, None)
        forgotten.invalidate()
