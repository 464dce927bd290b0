"""What a newcomer types, in a fresh interpreter, with nothing exported: it works, or says in one line what to do."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import IDENTITY, hold_server
from raceday_dagster.store.schema.migrations import upgrade
from raceday_dagster_tests.integration.commands import (
    JOB,
    PROJECT,
    make_environment,
    raceday,
    read_only_line,
    type_command,
)
from raceday_dagster_tests.integration.postgres_fixture import ask, open_server_folder
from raceday_dagster_tests.waiting import wait_for

WAIT = "import signal; print('ready', flush=True); signal.pause()"
LAUNCH = (str(Path(sys.executable).parent / "dg"), "launch", "--job", "process_races", "--config-json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the project's own, where typed commands find ``dagster.yaml`` and ``workspace.yaml``.

    The first that needs a server makes it there.
    """
    folder = tmp_path_factory.mktemp("project")
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with open_server_folder() as home, hold_server(home) as server:
        yield server


@pytest.fixture(scope="module")
def exported(server: EmbeddedPostgres) -> dict[str, str]:
    """What somebody has exported who has a server, an identity, and a database that holds no tables yet."""
    url = server.create_database("raceday", owner="raceday", connection_limit=10)
    return {**IDENTITY, "DATABASE_URL": url, "DAGSTER_PG_URL": server.create_dagster_database()}


def has_server(folder: Path) -> bool:
    """Whether the embedded server of the home that commands typed in ``folder`` have by default runs."""
    return EmbeddedPostgres(folder / ".raceday").status().running


def test_the_code_location_loads_with_nothing_exported_without_the_extra_and_without_the_parquet_library(
    folder: Path,
) -> None:
    (folder / "a.png").touch()
    question = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('PIL', 'openai') else find(name, *a)\n"
        "sys.modules['PIL'] = sys.modules['openai'] = None\n"
        "import raceday_dagster.images\n"
        "from raceday_dagster.definitions import defs\n"
        "print(*sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith('__')))\n"
        "print({'duckdb', 'pyarrow'} & set(sys.modules) or '')\n"
        "from raceday_dagster.cli import main\n"
        "main(['images', 'a.png'])\n"
    )
    ended = type_command(folder, "-W", "error", "-c", question, VISION_API_URL="http://127.0.0.1:9/v1")
    assert ended.returncode == 1
    jobs = ("daily_baseline", "data_checks", "evening_backfill", "maintenance", "meeting_status")
    jobs += ("process_images", "process_race", "process_races")
    assert ended.stdout.splitlines() == [" ".join(jobs), ""]
    assert read_only_line(ended) == (
        "Error: describing images needs the extra `images`: pip install 'raceday-dagster[images]'"
    )


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


def test_a_job_with_nothing_exported_names_the_variable_and_the_sandbox(folder: Path) -> None:
    ended = type_command(folder, *JOB)
    assert ended.returncode != 0
    line = read_only_line(ended)
    assert "DAGSTER_PG_URL" in line
    assert "raceday sandbox -- COMMAND" in line


def test_a_batch_in_the_sandbox_runs_as_typed_and_leaves_nothing_running(folder: Path) -> None:
    """The sandbox returns the exit code of its command, here of a shell that also shows what it was given."""
    typed = (("python", *JOB), (*LAUNCH, '{"execution": {"config": {"max_concurrent": 3}}}'))
    ended = raceday(folder, "sandbox", "--", "sh", "-c", f"{' && '.join(map(shlex.join, typed))} && env && exit 7")
    assert ended.returncode == 7, ended.stderr
    assert ended.stderr.count('{"event": "batch_complete"') == len(typed)
    named = {line.partition("=")[0] for line in ended.stdout.splitlines()}
    assert named >= {"DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "NZTAB_API_URL", "NZTAB_FROM_EMAIL"}
    assert not has_server(folder)


def test_a_sandbox_told_to_end_ends_its_command_and_then_everything_else(folder: Path) -> None:
    command = (sys.executable, "-m", "raceday_dagster.cli", "sandbox", "--", sys.executable, "-c", WAIT)
    with subprocess.Popen(command, cwd=folder, env=make_environment(), stdout=subprocess.PIPE, text=True) as sandbox:
        assert sandbox.stdout is not None
        assert sandbox.stdout.readline() == "ready\n"
        assert has_server(folder)
        sandbox.terminate()
        assert sandbox.wait(30) == 128 + signal.SIGTERM
    assert not has_server(folder)


def test_a_demo_whose_terminal_was_closed_leaves_no_server_running(folder: Path) -> None:
    command = (sys.executable, "-m", "raceday_dagster.cli", "demo")
    with subprocess.Popen(command, cwd=folder, env=make_environment(), stdout=subprocess.DEVNULL) as demo:
        wait_for(lambda: has_server(folder) or demo.poll() is not None)
        for _from in ("the terminal", "the shell"):
            demo.send_signal(signal.SIGHUP)
        assert demo.wait(60) == 128 + signal.SIGHUP
    assert not has_server(folder)


def test_ctrl_c_while_the_command_is_being_imported_is_one_line(folder: Path) -> None:
    pressed = (
        "import os, signal, sys\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "import raceday_dagster.cli\n"
    )
    ended = type_command(folder, "-c", pressed)
    assert (ended.returncode, read_only_line(ended)) == (1, "Aborted!")


def test_raceday_run_outside_a_clone_is_a_run_of_the_packages_own_instance(
    tmp_path: Path, server: EmbeddedPostgres, exported: dict[str, str]
) -> None:
    url = server.create_database("upgraded", owner="raceday", connection_limit=10)
    upgrade(url)
    config = tmp_path / "one.yaml"
    config.write_text('ops: {select_races: {config: {race_ids: ["00000000-0000-0000-0000-000000000000"]}}}')
    unreachable_api = {**exported, "DATABASE_URL": url, "NZTAB_API_URL": "http://127.0.0.1:9/v1"}
    ended = raceday(tmp_path, "run", "process_races", "-c", str(config), **unreachable_api)
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert ask(exported["DAGSTER_PG_URL"], "SELECT status FROM runs ORDER BY id DESC LIMIT 1") == "FAILURE"


def test_a_database_without_our_tables_stops_the_run_with_the_command_to_type(
    folder: Path, exported: dict[str, str]
) -> None:
    told = type_command(folder, *JOB, **exported)
    assert told.returncode != 0
    assert told.stderr.strip().splitlines()[-1].endswith("has no raceday tables: run `raceday db upgrade`")


def test_our_tables_and_dagsters_live_in_one_database(exported: dict[str, str]) -> None:
    assert upgrade(exported["DAGSTER_PG_URL"]).from_revision is None
    assert upgrade(exported["DAGSTER_PG_URL"]).from_revision is not None
