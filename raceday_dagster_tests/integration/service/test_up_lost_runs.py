"""Runs that a dead code server left: ended if their process is gone, left alone if it works or was never launched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from raceday_dagster.service.lost_runs import LAUNCHED_TAG, Worker, end_lost_runs, find_lost_runs, is_worker_alive

LAUNCHED = {LAUNCHED_TAG: "{}"}


@dg.op
def rest() -> None:
    """Does nothing; its job only lends runs a name."""


@dg.job
def resting_job() -> None:
    rest()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def plant(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    *,
    pid: int | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    run = instance.create_run_for_job(resting_job, status=status, tags=LAUNCHED if tags is None else tags)
    if pid is not None:
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    return run.run_id


def read_status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.parametrize(
    ("status", "ended_as"),
    [
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_a_run_whose_process_is_gone_is_ended_with_a_line(
    instance: dg.DagsterInstance, dead_pid: int, status: dg.DagsterRunStatus, ended_as: dg.DagsterRunStatus
) -> None:
    run_id = plant(instance, status, pid=dead_pid)
    said: list[str] = []
    assert end_lost_runs(instance, find_lost_runs(instance), said.append) == []
    assert read_status(instance, run_id) is ended_as
    assert len(said) == 1
    assert run_id in said[0]


def test_a_run_that_never_said_that_it_began_is_ended(instance: dg.DagsterInstance) -> None:
    run_id = plant(instance, dg.DagsterRunStatus.STARTING)
    end_lost_runs(instance, find_lost_runs(instance), lambda _line: None)
    assert read_status(instance, run_id) is dg.DagsterRunStatus.FAILURE


def test_a_run_whose_process_works_is_left_to_it(instance: dg.DagsterInstance) -> None:
    run_id = plant(instance, dg.DagsterRunStatus.STARTED, pid=os.getpid())
    left = end_lost_runs(instance, find_lost_runs(instance), lambda _line: None)
    assert [lost.run_id for lost in left] == [run_id]
    assert read_status(instance, run_id) is dg.DagsterRunStatus.STARTED
    assert end_lost_runs(instance, left, lambda _line: None, is_alive=lambda _worker: False) == []
    assert read_status(instance, run_id) is dg.DagsterRunStatus.FAILURE


def test_a_run_that_ended_by_itself_meanwhile_keeps_its_end(instance: dg.DagsterInstance, dead_pid: int) -> None:
    run_id = plant(instance, dg.DagsterRunStatus.STARTED, pid=dead_pid)
    lost = find_lost_runs(instance)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_canceled(run)
    end_lost_runs(instance, lost, lambda _line: None)
    assert read_status(instance, run_id) is dg.DagsterRunStatus.CANCELED


def test_runs_of_a_typed_command_and_runs_that_were_not_launched_are_no_concern(instance: dg.DagsterInstance) -> None:
    plant(instance, dg.DagsterRunStatus.STARTED, tags={})
    plant(instance, dg.DagsterRunStatus.NOT_STARTED)
    assert find_lost_runs(instance) == []


def test_a_later_process_with_the_same_id_is_not_the_worker(dead_pid: int) -> None:
    now_s = time.time()
    an_hour_ago_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert is_worker_alive(Worker(os.getpid(), now_s))
    assert not is_worker_alive(Worker(os.getpid(), an_hour_ago_s))
    assert not is_worker_alive(Worker(dead_pid, now_s))
