"""What a newcomer types, in a fresh interpreter, with nothing exported: it works, or says in one line what to do."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import raceday_dagster

PROJECT = Path(raceday_dagster.__file__).parents[1]
SETTINGS = (
    *("DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "NZTAB_API_URL", "RACEDAY_HOME", "DB_POOL_MAX"),
    *("NZTAB_FROM_EMAIL", "NZTAB_PARTNER_NAME", "NZTAB_PARTNER_ID"),
)
# Dagster warns that this command is superseded by the next; users see that, and it is not our line.
JOB = ("-W", "ignore", "-m", "dagster", "job", "execute", "-m", "raceday_dagster.definitions", "-j", "process_races")
LAUNCH = (str(Path(sys.executable).parent / "dg"), "launch", "--job", "process_races", "--config-json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like the project's own, where typed commands find ``dagster.yaml`` and ``workspace.yaml``."""
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def type_command(folder: Path, *command: str, **exported: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    paths = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths), **exported},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def raceday(folder: Path, *arguments: str, **exported: str) -> subprocess.CompletedProcess[str]:
    return type_command(folder, "-m", "raceday_dagster.cli", *arguments, **exported)


def read_exports(started: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The variables that a command printed for a shell."""
    lines = [line.removeprefix("export ") for line in started.stdout.splitlines()]
    return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


def read_only_line(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_the_code_location_loads_in_a_fresh_interpreter_with_nothing_exported(folder: Path) -> None:
    question = (
        "from raceday_dagster.definitions import defs;"
        "print(*sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith('__')))"
    )
    ended = type_command(folder, "-W", "error", "-c", question)
    assert ended.returncode == 0, ended.stderr
    jobs = ("daily_baseline", "evening_backfill", "maintenance", "meeting_status", "process_race", "process_races")
    assert ended.stdout.split() == list(jobs)


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_help_and_version_answer_without_the_imports_of_a_command(folder: Path, asked: str) -> None:
    question = (
        "import sys\nfrom raceday_dagster.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*{'dagster', 'pandas', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    )
    ended = type_command(folder, "-c", question, asked)
    assert ended.returncode == 0, ended.stderr
    first, *_others, imported = ended.stdout.splitlines()
    assert first.startswith("Usage: " if asked == "--help" else "raceday, version ")
    assert imported == ""


def test_a_job_typed_with_nothing_exported_names_the_sandbox(folder: Path) -> None:
    ended = type_command(folder, *JOB)
    assert ended.returncode != 0
    assert "raceday sandbox" in read_only_line(ended)


def test_a_job_typed_with_a_wrong_storage_address_does_not_print_it(folder: Path) -> None:
    ended = type_command(folder, *JOB, DAGSTER_PG_URL="mysql://u:hunter2@h/d")
    assert ended.returncode != 0
    assert "hunter2" not in ended.stdout + ended.stderr
    assert "DAGSTER_PG_URL" in read_only_line(ended)


def test_an_upgrade_without_a_database_names_the_variable_and_the_sandbox(folder: Path) -> None:
    ended = raceday(folder, "db", "upgrade")
    assert ended.returncode == 1
    line = read_only_line(ended)
    assert "DATABASE_URL is not set" in line
    assert "raceday sandbox" in line


def test_an_upgrade_of_an_unreachable_database_is_one_line_without_its_password(folder: Path) -> None:
    ended = raceday(folder, "db", "upgrade", DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/d")
    assert ended.returncode == 1
    line = read_only_line(ended)
    assert "cannot be reached" in line
    assert "hunter2" not in ended.stdout + ended.stderr


def test_simulated_races_never_go_into_a_database_of_the_users(folder: Path) -> None:
    ended = raceday(folder, "sandbox", "--", "true", DATABASE_URL="postgresql://u@127.0.0.1:1/d")
    assert ended.returncode == 1
    assert "--allow-simulated-data" in read_only_line(ended)


def test_a_wrong_variable_is_one_line(folder: Path) -> None:
    ended = raceday(folder, "db", "status", DB_POOL_MAX="many")
    assert ended.returncode == 1
    assert "DB_POOL_MAX is wrong" in read_only_line(ended)


def test_the_sandbox_returns_the_exit_code_of_its_command_and_leaves_nothing_running(folder: Path) -> None:
    ended = raceday(
        folder, "sandbox", "--", sys.executable, "-c", "import os, sys; print(sorted(os.environ)); sys.exit(7)"
    )
    assert ended.returncode == 7, ended.stderr
    for name in ("DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "NZTAB_API_URL", "NZTAB_FROM_EMAIL", "RACEDAY_HOME"):
        assert f"'{name}'" in ended.stdout
    assert raceday(folder, "db", "status").stdout.startswith("stopped")


def test_a_command_that_is_not_there_is_one_line(folder: Path) -> None:
    ended = raceday(folder, "sandbox", "--", "no-such-command")
    assert ended.returncode == 1
    assert "cannot run 'no-such-command'" in read_only_line(ended)


@pytest.mark.parametrize("typed", [("python", *JOB), (*LAUNCH, '{"execution": {"config": {"max_concurrent": 3}}}')])
def test_a_batch_in_the_sandbox_runs_as_typed(folder: Path, typed: tuple[str, ...]) -> None:
    ended = raceday(folder, "sandbox", "--", *typed)
    assert ended.returncode == 0, ended.stderr
    assert '{"event": "batch_complete"' in ended.stderr


def test_a_database_without_our_tables_stops_the_run_with_the_command_to_type(folder: Path) -> None:
    started = raceday(folder, "db", "start")
    assert started.returncode == 0, started.stderr
    try:
        kept = read_exports(started)
        told = type_command(folder, *JOB, **kept)
        assert told.returncode != 0
        assert told.stderr.strip().splitlines()[-1].endswith("has no raceday tables: run `raceday db upgrade`")
        assert raceday(folder, "db", "upgrade", **kept).returncode == 0
        assert "schema is at" in raceday(folder, "db", "upgrade", **kept).stdout
        # One database for both is fine: neither side's tables or revisions are in the other's way.
        shared = {"DATABASE_URL": kept["DAGSTER_PG_URL"]}
        assert raceday(folder, "db", "upgrade", **shared).returncode == 0
        assert "schema is at" in raceday(folder, "db", "upgrade", **shared).stdout
    finally:
        assert raceday(folder, "db", "stop").returncode == 0
