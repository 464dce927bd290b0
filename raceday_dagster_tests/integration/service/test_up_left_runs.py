"""A run that hangs without its code server: its process is ended for certain, and nobody else's is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from sqlalchemy.exc import OperationalError

from raceday_dagster.sandbox.postmaster import wait_for
from raceday_dagster.service import left_runs
from raceday_dagster.service.left_processes import FORKED, find_left_processes
from raceday_dagster.service.left_runs import LeftRuns
from raceday_dagster_tests.integration.service.test_up_lost_runs import plant, read_status

SOON_S = 30.0
STARTER = """
import os, subprocess, sys
rest = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *sys.argv[1:]])
print(rest.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def run_left(home: Path, *marks: bytes, starter_lives: bool = False) -> Iterator[psutil.Process]:
    """A suspended process in the session of another, which has ended."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, *map(os.fsdecode, marks)],
        env={**os.environ, "RACEDAY_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdin is not None
        left = psutil.Process(int(starter.stdout.readline()))
        # Its own command line, and no longer that of the process it was forked from.
        assert wait_for(lambda: "sleep(600)" in " ".join(left.cmdline()), SOON_S)
        left.send_signal(signal.SIGSTOP)
        try:
            if not starter_lives:
                starter.stdin.close()
                starter.wait(SOON_S)
            yield left
        finally:
            left.kill()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_is_left_is_known_by_its_home_its_command_and_a_starter_that_is_gone(tmp_path: Path) -> None:
    with run_left(tmp_path, *FORKED) as left, run_left(tmp_path / "other", *FORKED), run_left(tmp_path, FORKED[0]):
        assert find_left_processes(tmp_path) == [left.pid]
    with run_left(tmp_path, *FORKED, starter_lives=True):
        assert find_left_processes(tmp_path) == []


def test_at_the_last_look_a_run_that_hangs_is_killed_and_marked(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    said: list[str] = []
    with run_left(tmp_path, *FORKED) as left:
        run_id = plant(instance, dg.DagsterRunStatus.STARTED, pid=left.pid)
        looks = LeftRuns(instance, tmp_path, said.append)
        looks.look(last=True)
        assert wait_for(lambda: len(said) == 2, SOON_S)
        looks.close()
        assert has_ended(left)
    assert read_status(instance, run_id) is dg.DagsterRunStatus.FAILURE
    assert said[0].endswith("killed their processes (1)")
    assert run_id in said[1]


def test_at_a_start_it_has_time_to_end_by_itself(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with run_left(tmp_path, *FORKED) as left:
        run_id = plant(instance, dg.DagsterRunStatus.STARTED, pid=left.pid)
        looks = LeftRuns(instance, tmp_path, said.append)
        looks.look()
        assert said == []
        assert not has_ended(left)
        looks.close()
        monkeypatch.setattr(left_runs, "FINISH_WITHIN_S", 0.0)
        looks.look()
        assert wait_for(lambda: read_status(instance, run_id) is dg.DagsterRunStatus.FAILURE, SOON_S)
        looks.close()
        assert has_ended(left)


@pytest.mark.parametrize("last", [False, True])
def test_a_database_that_hangs_holds_up_neither_a_start_nor_an_end(
    last: bool, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on, answered = threading.Event(), threading.Event(), threading.Event()
    run_id = plant(instance, dg.DagsterRunStatus.STARTED)

    def hang(_instance: dg.DagsterInstance) -> list[left_runs.LostRun]:
        asked.set()
        go_on.wait(SOON_S)
        answered.set()
        return [left_runs.LostRun(run_id, ())]

    monkeypatch.setattr(left_runs, "find_lost_runs", hang)
    monkeypatch.setattr(left_runs, "LOOK_WITHIN_S", 0.1)
    monkeypatch.setattr(left_runs, "LAST_LOOK_WITHIN_S", 0.1)
    said: list[str] = []
    LeftRuns(instance, tmp_path, said.append).look(last=last)
    assert asked.is_set()
    assert ["could not be looked at" in line for line in said] == [True]
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "left-runs"]
    go_on.set()
    thread.join(SOON_S)
    assert answered.is_set()
    # By then the run may be one of the next code server.
    assert read_status(instance, run_id) is dg.DagsterRunStatus.STARTED


def test_a_database_that_is_away_is_one_line(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_instance: dg.DagsterInstance) -> list[left_runs.LostRun]:
        raise OperationalError("SELECT", {}, ConnectionError("gone"))

    monkeypatch.setattr(left_runs, "find_lost_runs", refuse)
    said: list[str] = []
    LeftRuns(instance, tmp_path, said.append).look()
    assert said == ["the runs that a dead code server left could not be looked at: Dagster's database is away"]
