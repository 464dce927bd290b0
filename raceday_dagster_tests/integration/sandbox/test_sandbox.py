"""The sandbox as other people's environments, signals and second sandboxes meet it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raceday_dagster_tests.integration.sandbox.test_commands import (
    JOB,
    PROJECT,
    SETTINGS,
    folder,
    raceday,
    read_exports,
    read_only_line,
    type_command,
)

__all__ = ["folder"]

SAY_API = ("-c", "import os; print(os.environ['NZTAB_API_URL'], os.environ['DATABASE_URL'])")
WAIT = ("-c", "import signal; print('ready', flush=True); signal.pause()")


def start_sandbox(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.Popen(
        [sys.executable, "-m", "raceday_dagster.cli", "sandbox", "--", sys.executable, *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_an_empty_variable_counts_as_not_set(folder: Path) -> None:
    ended = raceday(folder, "sandbox", "--", sys.executable, *SAY_API, NZTAB_API_URL="", DATABASE_URL=" ")
    assert ended.returncode == 0, ended.stderr
    api, database = ended.stdout.split()
    assert api.startswith("http://127.0.0.1:")
    assert "raceday_simulated_" in database


def test_an_address_that_is_set_is_kept_and_its_races_have_a_database_of_their_own(folder: Path) -> None:
    ended = raceday(folder, "sandbox", "--", sys.executable, *SAY_API, NZTAB_API_URL="http://127.0.0.1:9/v1")
    assert ended.returncode == 0, ended.stderr
    api, database = ended.stdout.split()
    assert api == "http://127.0.0.1:9/v1"
    assert "simulated" not in database


def test_a_home_that_is_a_file_is_one_line(folder: Path) -> None:
    (folder / "taken").write_text("")
    ended = raceday(folder, "sandbox", "--", "true", RACEDAY_HOME=str(folder / "taken"))
    assert ended.returncode == 1
    assert "RACEDAY_HOME" in read_only_line(ended)


def test_being_told_to_end_ends_the_command_and_then_everything_else(folder: Path) -> None:
    with start_sandbox(folder, *WAIT) as sandbox:
        assert sandbox.stdout is not None
        assert sandbox.stdout.readline() == "ready\n"
        assert raceday(folder, "db", "status").returncode == 0
        sandbox.send_signal(signal.SIGTERM)
        assert sandbox.wait(30) == 128 + signal.SIGTERM
    assert raceday(folder, "db", "status").stdout.startswith("stopped")


def test_the_last_of_two_sandboxes_stops_the_server(folder: Path) -> None:
    with start_sandbox(folder, *WAIT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        second = raceday(folder, "sandbox", "--", sys.executable, *SAY_API)
        assert second.returncode == 0, second.stderr
        assert raceday(folder, "db", "status").returncode == 0, "the second took the server from the first"
        refused = raceday(folder, "db", "stop")
        assert refused.returncode == 1
        assert "a sandbox is running" in read_only_line(refused)
        first.send_signal(signal.SIGTERM)
        first.wait(30)
    assert raceday(folder, "db", "status").stdout.startswith("stopped")


def test_a_server_started_by_hand_outlives_a_sandbox(folder: Path) -> None:
    started = raceday(folder, "db", "start")
    assert started.returncode == 0, started.stderr
    assert [line.partition("=")[0] for line in started.stdout.splitlines()] == [
        "export DATABASE_URL",
        "export DAGSTER_PG_URL",
    ]
    try:
        assert raceday(folder, "sandbox", "--", "true").returncode == 0
        assert raceday(folder, "db", "status").returncode == 0
    finally:
        assert raceday(folder, "db", "stop").returncode == 0
    assert raceday(folder, "db", "status").returncode == 3


@pytest.mark.parametrize(
    ("exported", "said"),
    [
        ({"NZTAB_API_URL": "http://127.0.0.1:9/v1", "NZTAB_FROM_EMAIL": " "}, "NZTAB_FROM_EMAIL is not set"),
        ({"DB_POOL_MAX": "many"}, "DB_POOL_MAX is wrong"),
        ({"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, "cannot be reached"),
    ],
)
def test_a_run_that_cannot_begin_ends_with_the_line_that_says_why(
    folder: Path, exported: dict[str, str], said: str
) -> None:
    started = raceday(folder, "db", "start")
    assert started.returncode == 0, started.stderr
    try:
        urls = read_exports(started)
        assert raceday(folder, "db", "upgrade", **urls).returncode == 0
        identity = {"NZTAB_FROM_EMAIL": "a@b.nz", "NZTAB_PARTNER_NAME": "A", "NZTAB_PARTNER_ID": "A"}
        told = type_command(folder, *JOB, **{**urls, **identity, **exported})
        assert told.returncode != 0
        assert said in told.stderr.strip().splitlines()[-1], told.stderr[-600:]
        assert "hunter2" not in told.stdout + told.stderr
    finally:
        assert raceday(folder, "db", "stop").returncode == 0
