"""The sandbox and the embedded server's commands, in this process: what they keep, refuse, share and stop."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import make_url

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import (
    Sandbox,
    choose_simulation,
    hold_server,
    open_sandbox,
    run_command,
    write_instance_config,
)
from raceday_dagster_tests.integration.commands import call_raceday

NOBODYS_URL = "postgresql://u:hunter2@127.0.0.1:1/d"


def name_database(sandbox: Sandbox) -> str | None:
    return make_url(sandbox.environment["DATABASE_URL"]).database


@pytest.mark.parametrize(
    ("arguments", "exported", "said"),
    [
        (("db", "upgrade"), {}, ("DATABASE_URL is not set", "raceday sandbox")),
        (("db", "upgrade"), {"DATABASE_URL": NOBODYS_URL}, ("cannot be reached",)),
        (("run", "daily"), {}, ("there is no job 'daily'", "daily_baseline")),
        (("run", "process_races"), {}, ("DATABASE_URL is not set", "raceday sandbox")),
        (("run", "process_races"), {"DATABASE_URL": NOBODYS_URL}, ("set DAGSTER_PG_URL too",)),
        (("db", "status"), {"DB_POOL_MAX": "many"}, ("DB_POOL_MAX is wrong",)),
        (("sandbox", "--", "true"), {"DATABASE_URL": NOBODYS_URL}, ("--allow-simulated-data",)),
        (("sandbox", "--", "true"), {"RACEDAY_HOME": __file__}, ("RACEDAY_HOME",)),
        (
            ("sandbox", "--", "true"),
            {"DATABASE_URL": NOBODYS_URL, "NZTAB_API_URL": "http://127.0.0.1:9/v1"},
            ("set DAGSTER_PG_URL too",),
        ),
    ],
)
def test_raceday_says_in_one_line_what_is_wrong_and_prints_no_password(
    home: Path, arguments: tuple[str, ...], exported: dict[str, str], said: tuple[str, ...]
) -> None:
    ended = call_raceday(home, *arguments, **exported)
    assert ended.exit_code == 1
    assert ended.stderr.strip().count("\n") == 0, ended.stderr
    assert all(part in ended.stderr for part in said), ended.stderr
    assert "hunter2" not in ended.output
    assert not (home / "postgres").exists(), "a server was made before the settings were looked at"


def test_an_upgrade_names_the_command_that_runs_a_job(home: Path, empty_database_url: str) -> None:
    upgraded = call_raceday(home, "db", "upgrade", DATABASE_URL=empty_database_url)
    assert (upgraded.exit_code, upgraded.stderr.count("\n")) == (0, 1), upgraded.output
    assert "`raceday run JOB`" in upgraded.stderr


def test_a_command_that_is_not_there_is_one_line() -> None:
    with pytest.raises(SandboxError, match=r"^cannot run 'no-such-command': No such file or directory$"):
        run_command(["no-such-command"], {})


def test_a_folder_that_cannot_hold_the_instance_is_one_line(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "dagster").touch()
    with pytest.raises(SandboxError, match=r"^\S+/dagster cannot be used: File exists; set RACEDAY_HOME elsewhere$"):
        write_instance_config(home / "dagster")


def test_an_empty_variable_counts_as_not_set(shared_home: Path) -> None:
    given = {"RACEDAY_HOME": str(shared_home), "NZTAB_API_URL": "", "DATABASE_URL": " "}
    with open_sandbox(given, choose_simulation(datetime.now(UTC))) as sandbox:
        assert sandbox.environment["NZTAB_API_URL"].startswith("http://127.0.0.1:")
        assert str(name_database(sandbox)).startswith("raceday_simulated_")


def test_an_api_that_is_set_is_kept_and_its_races_have_a_database_of_their_own(shared_home: Path) -> None:
    given = {"RACEDAY_HOME": str(shared_home), "NZTAB_API_URL": "http://127.0.0.1:9/v1", "NZTAB_FROM_EMAIL": "a@b.nz"}
    with open_sandbox(given, choose_simulation(datetime.now(UTC))) as sandbox:
        assert sandbox.simulator is None
        assert given.items() <= sandbox.environment.items()
        assert name_database(sandbox) == "raceday"
        assert "NZTAB_PARTNER_NAME" not in sandbox.environment, "a made-up identity would be sent to a real API"


def test_the_last_of_two_holders_stops_the_server(shared_home: Path) -> None:
    with hold_server(shared_home):
        with hold_server(shared_home) as server:
            pass
        assert server.status().running, "the second took the server from the first"
        refused = call_raceday(shared_home, "db", "stop")
        assert refused.exit_code == 1
        assert "a sandbox is running" in refused.stderr
    assert not server.status().running


def test_a_server_started_by_hand_outlives_a_sandbox(shared_home: Path) -> None:
    started = call_raceday(shared_home, "db", "start")
    try:
        exports = [line.partition("=")[0] for line in started.stdout.splitlines()]
        assert exports == ["export DATABASE_URL", "export DAGSTER_PG_URL"], started.output
        for line in started.stdout.splitlines():  # libpq itself reads them, as psql does
            psycopg2.connect(*shlex.split(line.partition("=")[2])).close()
        with hold_server(shared_home):
            pass
        assert call_raceday(shared_home, "db", "status").exit_code == 0
        assert call_raceday(shared_home, "db", "stop").exit_code == 0
        assert call_raceday(shared_home, "db", "status").exit_code == 3
    finally:
        EmbeddedPostgres(shared_home).stop()
