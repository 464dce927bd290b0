"""Runs without a run server: marked once their process is gone, killed where they never end, and nobody else's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from raceday_dagster.dagster_plugins.forked_process import read_birth
from raceday_dagster.dagster_plugins.run_launcher import WORKER_TAG, RunWorker
from raceday_dagster.service import lost_runs
from raceday_dagster.service.lost_runs import FINISH_WITHIN_S, LOOK_EVERY_S, LostRuns
from raceday_dagster_tests.waiting import wait_for

SOON_S = 30.0
Status = dg.DagsterRunStatus
SILENT = "the runs that a dead run server left could not be looked at: Dagster's database does not answer"


@dg.op
def rest() -> None:
    """Does nothing; its job only lends runs a name."""


@dg.job
def resting_job() -> None:
    rest()


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for that of a run."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


class Follower:
    """Follows the lost runs of an instance, with a clock that a test moves."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.said: list[str] = []
        self.now_s = 1000.0
        self.runs = LostRuns(instance, self.said.append, monotonic=lambda: self.now_s)

    def plant(self, pid: int | None, status: dg.DagsterRunStatus = Status.STARTED, **changed: object) -> str:
        """A run with that process, or one that no run server launched."""
        run_id = self.instance.create_run_for_job(resting_job, status=status).run_id
        if pid is not None:
            facts = {"pid": pid, "born": read_birth(pid) or 1, "host": socket.gethostname(), "run_id": run_id}
            worker = RunWorker.model_validate({**facts, **changed})
            self.instance.add_run_tags(run_id, {WORKER_TAG: worker.model_dump_json()})
        return run_id

    def read_run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def read_status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.read_run(run_id).status

    def look_after(self, seconds: float) -> None:
        self.now_s += seconds
        self.runs.look()


@pytest.fixture
def follower() -> Iterator[Follower]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Follower(instance)


@pytest.mark.parametrize(
    ("status", "ended_as"),
    [
        (Status.STARTED, Status.FAILURE),
        (Status.STARTING, Status.FAILURE),
        (Status.CANCELING, Status.CANCELED),
    ],
)
def test_a_run_whose_process_is_gone_is_ended_with_a_line(
    follower: Follower, status: dg.DagsterRunStatus, ended_as: dg.DagsterRunStatus
) -> None:
    # A process with this id lives, but it began at another time.
    run_id = follower.plant(os.getpid(), status, born=1)
    follower.runs.find()
    assert follower.read_status(run_id) is ended_as
    assert follower.said == [f"run {run_id} (resting_job) lost its process with its run server; marked as ended"]


def test_a_run_whose_process_works_goes_on_and_is_marked_a_second_after_that_has_ended(
    follower: Follower, worker: subprocess.Popen[bytes]
) -> None:
    run_id = follower.plant(worker.pid)
    follower.runs.find()
    follower.look_after(600)
    assert worker.poll() is None
    assert follower.read_status(run_id) is Status.STARTED
    worker.kill()
    worker.wait()
    follower.look_after(LOOK_EVERY_S)
    assert follower.read_status(run_id) is Status.FAILURE


def test_a_run_that_ended_by_itself_keeps_its_end(follower: Follower, worker: subprocess.Popen[bytes]) -> None:
    run_id = follower.plant(worker.pid)
    follower.runs.find()
    follower.instance.report_run_canceled(follower.read_run(run_id))
    worker.kill()
    worker.wait()
    follower.look_after(LOOK_EVERY_S)
    assert follower.read_status(run_id) is Status.CANCELED
    assert follower.said == []


def test_what_a_killed_service_left_has_fifteen_seconds_to_end_by_itself(
    follower: Follower, worker: subprocess.Popen[bytes]
) -> None:
    run_id = follower.plant(worker.pid)
    follower.runs.find(finish_within_s=FINISH_WITHIN_S)
    follower.look_after(FINISH_WITHIN_S - LOOK_EVERY_S)
    assert worker.poll() is None
    follower.look_after(LOOK_EVERY_S)
    assert worker.wait(SOON_S) == -signal.SIGKILL
    follower.look_after(LOOK_EVERY_S)
    assert follower.read_status(run_id) is Status.FAILURE
    assert follower.said[0] == "runs went on without their run server: killed their processes (1)"


def test_at_the_end_of_the_service_a_run_that_never_ends_is_killed_and_marked(
    follower: Follower, worker: subprocess.Popen[bytes]
) -> None:
    run_id = follower.plant(worker.pid)
    follower.runs.end()
    assert worker.wait(SOON_S) == -signal.SIGKILL
    assert follower.read_status(run_id) is Status.FAILURE


def test_other_runs_are_no_concern(follower: Follower) -> None:
    follower.plant(None)  # a `dagster job execute`
    follower.plant(None, Status.NOT_STARTED)
    elsewhere = follower.plant(os.getpid(), host="another.machine")
    follower.runs.find(finish_within_s=0)
    follower.runs.end()
    assert follower.said == []
    assert follower.read_status(elsewhere) is Status.STARTED


def test_a_database_that_stands_still_holds_nobody_up(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    run_id = follower.plant(os.getpid(), born=1)
    get_runs = follower.instance.get_runs
    monkeypatch.setattr(follower.instance, "get_runs", lambda *given: go_on.wait(SOON_S) and get_runs(*given))
    monkeypatch.setattr(lost_runs, "ASK_WITHIN_S", 0.05)
    follower.runs.find()
    follower.runs.end()
    assert follower.said == [SILENT]
    go_on.set()
    assert wait_for(lambda: "dagster-database" not in [thread.name for thread in threading.enumerate()], SOON_S)
    assert follower.read_status(run_id) is Status.STARTED


def test_a_database_that_refuses_is_one_line(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Mock(side_effect=OperationalError("SELECT", {}, ConnectionError("gone")))
    monkeypatch.setattr(follower.instance, "get_runs", refused)
    follower.runs.find()
    assert follower.said == [SILENT]
