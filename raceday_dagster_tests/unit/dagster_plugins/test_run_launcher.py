"""Whose process a run has, what is said of it, and when a run is launched the stock way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from raceday_dagster.dagster_plugins import run_launcher
from raceday_dagster.dagster_plugins.forked_process import Message, ProcessIdentity, Refusal, identify
from raceday_dagster.dagster_plugins.run_launcher import WORKER_TAG, RunServerLauncher, RunWorker, find_run_worker

HERE = identify(os.getpid())
REUSED = HERE.model_copy(update={"born": HERE.born - 1})
ELSEWHERE = HERE.model_copy(update={"host": "another.invalid"})


def make_run(process: ProcessIdentity | None, tag_of: str = "run-1") -> dg.DagsterRun:
    tags = {}
    if process is not None:
        tags[WORKER_TAG] = RunWorker(run_id=tag_of, **process.model_dump()).model_dump_json()
    return dg.DagsterRun(job_name="process_races", run_id="run-1", tags=tags)


def test_tag_that_a_rerun_has_from_its_parent_names_no_worker_of_it() -> None:
    assert find_run_worker(make_run(HERE, tag_of="its parent")) is None


@pytest.mark.parametrize("tag", ["", "no JSON", "{}", '{"pid": "1"}'])
def test_unreadable_tag_names_no_worker(tag: str) -> None:
    assert find_run_worker(dg.DagsterRun(job_name="process_races", tags={WORKER_TAG: tag})) is None


@pytest.mark.parametrize("process", [REUSED, ELSEWHERE], ids=["a later process with its pid", "another machine"])
def test_process_that_is_not_the_one_is_neither_alive_nor_sent_a_signal(process: ProcessIdentity) -> None:
    assert not process.is_alive()
    assert not process.send_signal(0)
    assert HERE.send_signal(0)


@pytest.mark.parametrize(
    ("process", "status"),
    [
        (None, WorkerStatus.RUNNING),
        (HERE, WorkerStatus.RUNNING),
        (ELSEWHERE, WorkerStatus.RUNNING),
        (REUSED, WorkerStatus.NOT_FOUND),
    ],
    ids=["launched without a run server", "alive", "on another machine", "gone"],
)
def test_run_monitoring_is_told_only_of_processes_that_are_surely_gone(
    process: ProcessIdentity | None, status: WorkerStatus
) -> None:
    launcher = RunServerLauncher()
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(make_run(process)).status is status


class Instance:
    """What the launcher asks of a Dagster instance."""

    root_directory = "/nowhere"

    def __init__(self) -> None:
        self.run = make_run(None)
        self.tags: dict[str, str] = {}
        self.stock_launches = 0
        self.said: list[str] = []

    def get_run_by_id(self, _run_id: str) -> dg.DagsterRun:
        return self.run

    def report_run_canceling(self, _run: dg.DagsterRun) -> None:
        self.said.append("cancelling")

    def report_engine_event(self, message: str, _run: dg.DagsterRun, cls: type) -> None:
        self.said.append(message)

    def add_run_tags(self, _run_id: str, tags: dict[str, str]) -> None:
        self.tags |= tags


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Instance:
    instance = Instance()

    def launch_run(self: Any, context: LaunchRunContext) -> None:
        instance.stock_launches += 1

    monkeypatch.setattr(dg.DefaultRunLauncher, "launch_run", launch_run)
    return instance


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The run server's end of the launcher's next connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0.01)
    monkeypatch.setattr(run_launcher, "connect", lambda _path: theirs)
    with ours:
        yield ours


def launch(instance: Any) -> None:
    launcher = RunServerLauncher()
    launcher.register_instance(instance)
    launcher.launch_run(LaunchRunContext(make_run(None), None))


def say(server: socket.socket, message: Message) -> None:
    server.send(message.model_dump_json().encode())


@pytest.mark.parametrize("error", [FileNotFoundError, ConnectionRefusedError, BlockingIOError])
def test_launch_without_a_run_server_is_the_stock_one(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def refuse(path: Path) -> socket.socket:
        assert path == Path("/nowhere/run-server.sock")
        raise error

    monkeypatch.setattr(run_launcher, "connect", refuse)
    launch(instance)
    assert (instance.stock_launches, instance.tags) == (1, {})


@pytest.mark.parametrize(
    ("what", "reason"),
    [("refuses", "no room"), ("is silent", "did not answer"), ("ends", "ended before it answered")],
)
def test_launch_that_a_run_server_took_is_never_made_again(
    instance: Instance, server: socket.socket, what: str, reason: str
) -> None:
    if what == "refuses":
        say(server, Refusal(error="no room"))
    elif what == "ends":
        server.shutdown(socket.SHUT_WR)
    with pytest.raises(dg.DagsterError, match=reason):
        launch(instance)
    assert (instance.stock_launches, instance.tags) == (0, {})


def test_cancelling_a_run_whose_process_is_gone_says_so(instance: Any) -> None:
    instance.run = make_run(REUSED)
    launcher = RunServerLauncher()
    launcher.register_instance(instance)
    assert not launcher.terminate("run-1")
    cancelling, why = instance.said
    assert cancelling == "cancelling"
    assert "cannot be interrupted: it is gone" in why
