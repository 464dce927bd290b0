"""Which run waits and which does not, how a code server ends its runs, and what of Dagster the launcher stands on."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver, popen_forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import dagster as dg
import pytest
import yaml
from dagster._core.instance import InstanceRef
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._grpc.server import DagsterApiServer
from dagster._utils.tags import TagConcurrencyLimitsCounter

from raceday_dagster.dagster_plugins import launcher
from raceday_dagster.dagster_plugins.launcher import LANE_TAG, LIVE, QUEUED, LiveLaneRunCoordinator

DAGSTER_YAML = Path(__file__).parents[3] / "dagster.yaml"
ADVICE = (
    "Dagster changed the launch of runs: until launcher.py follows, run workers start in new interpreters, a second"
    " slower. Read dagster/_grpc/server.py (DagsterApiServer) and dagster/_cli/api.py (grpc_command) of the new one,"
    " see how they start, watch and cancel a run, do the same in launcher.py, then mend STOOD_ON."
)


class Instance:
    """What the coordinator asks of a Dagster instance, with a log of what it did."""

    def __init__(self, run: dg.DagsterRun) -> None:
        self.run = run
        self.done: list[tuple[str, Any]] = []

    def launch_run(self, run_id: str, workspace: Any) -> None:
        self.done.append(("launch", workspace))

    def add_run_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.run = self.run.with_tags({**self.run.tags, **tags})

    def report_dagster_event(self, event: dg.DagsterEvent, run_id: str) -> None:
        self.done.append((event.event_type_value, self.run.tags.get(LANE_TAG)))

    def get_run_by_id(self, run_id: str) -> dg.DagsterRun:
        return self.run


def submit(instance: Any, run: dg.DagsterRun) -> dg.DagsterRun:
    coordinator = LiveLaneRunCoordinator()
    coordinator.register_instance(instance)
    return coordinator.submit_run(SubmitRunContext(run, "the workspace"))


def make_run(lane: str | None, status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED) -> dg.DagsterRun:
    return dg.DagsterRun(job_name="process_races", status=status, tags={} if lane is None else {LANE_TAG: lane})


def test_a_live_run_is_launched_by_whoever_submits_it() -> None:
    run = make_run(LIVE)
    instance = Instance(run)
    assert submit(instance, run) is run
    assert instance.done == [("launch", "the workspace")]


@pytest.mark.parametrize("lane", [None, "", "Live", QUEUED])
def test_every_other_run_is_queued_under_the_tag_that_the_limit_counts(lane: str | None) -> None:
    run = make_run(lane)
    instance = Instance(run)
    assert submit(instance, run).tags[LANE_TAG] == QUEUED
    assert instance.done == [("PIPELINE_ENQUEUED", QUEUED)]


@pytest.mark.parametrize("lane", [LIVE, None])
def test_a_run_submitted_twice_is_neither_launched_nor_queued_again(lane: str | None) -> None:
    run = make_run(lane, dg.DagsterRunStatus.STARTED)
    instance = Instance(run)
    submit(instance, run)
    assert instance.done == []


def test_without_a_way_to_launch_a_live_run_waits_in_the_queue_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = make_run(LIVE)
    instance = Instance(run)
    instance.launch_run = None
    submit(instance, run)
    assert instance.done == [("PIPELINE_ENQUEUED", QUEUED)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_dagster_yaml_names_the_coordinator_and_dagster_takes_it(tmp_path: Path) -> None:
    written = yaml.safe_load(DAGSTER_YAML.read_text(encoding="utf-8"))
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({name: written[name] for name in ("run_coordinator", "scheduler")}), encoding="utf-8"
    )
    reference = InstanceRef.from_dir(str(tmp_path))
    coordinator = reference.run_coordinator
    assert isinstance(coordinator, LiveLaneRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1
    assert reference.scheduler is not None
    assert reference.scheduler.max_catchup_runs == 1


def test_of_the_queued_runs_one_goes_at_a_time_whatever_the_live_lane_does() -> None:
    written = yaml.safe_load(DAGSTER_YAML.read_text(encoding="utf-8"))["run_coordinator"]["config"]
    config = LiveLaneRunCoordinator.from_config_value(None, written).get_run_queue_config()
    assert config.max_concurrent_runs == -1
    live = [make_run(LIVE, dg.DagsterRunStatus.STARTED)] * 4
    queued = make_run(QUEUED, dg.DagsterRunStatus.STARTED)
    assert not TagConcurrencyLimitsCounter(config.tag_concurrency_limits, live).is_blocked(queued)
    assert TagConcurrencyLimitsCounter(config.tag_concurrency_limits, [*live, queued]).is_blocked(queued)
    daemon = inspect.getsource(QueuedRunCoordinatorDaemon)
    assert "isinstance(instance.run_coordinator, QueuedRunCoordinator)" in daemon, "the daemon may refuse a subclass"


def test_dagster_says_the_lines_that_the_code_server_stands_on() -> None:
    assert launcher.find_changes() == [], ADVICE


def test_what_is_private_of_dagster_and_python_is_as_it_was() -> None:
    assert callable(getattr(dg.DagsterInstance, "launch_run", None)), ADVICE
    assert set(inspect.signature(dg.DagsterInstance.launch_run).parameters) == {"self", "run_id", "workspace"}, ADVICE
    assert SubmitRunContext._fields[:2] == ("dagster_run", "workspace"), ADVICE
    assert issubclass(LiveLaneRunCoordinator, dg.QueuedRunCoordinator)
    for name in ("_check_for_orphaned_runs", "cleanup", "StartRun", "CancelExecution"):
        assert callable(getattr(DagsterApiServer, name, None)), f"{name}: {ADVICE}"
    poll = inspect.getsource(popen_forkserver.Popen.poll)
    assert "self.returncode = 255" in poll, "multiprocessing says something else of a child whose server is gone"
    assert "self._preload_modules" in inspect.getsource(forkserver.ForkServer.ensure_running)
    assert multiprocessing.get_context("forkserver").__class__ is launcher.ForkServerContext


def test_a_change_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stood_on = {
        "dagster._grpc.server:DagsterApiServer.StartRun": ("self._mp_ctx.Process(", "self._no_such_thing("),
        "dagster._grpc.server:DagsterApiServer.gone": ("x",),
        "dagster._gone:grpc_command": ("x",),
    }
    monkeypatch.setattr(launcher, "STOOD_ON", stood_on)
    line, attribute, module = launcher.find_changes()
    assert line == "dagster._grpc.server:DagsterApiServer.StartRun no longer says `self._no_such_thing(`"
    assert attribute.startswith("dagster._grpc.server:DagsterApiServer.gone cannot be read")
    assert module.startswith("dagster._gone:grpc_command cannot be read")


class ReplacedError(Exception):
    """The process is another program now."""


def refuse_fork_server() -> None:
    raise OSError("AF_UNIX path too long")


@pytest.mark.parametrize(
    ("place", "changed", "said"),
    [
        (launcher, {"STOOD_ON": {"dagster._gone:x": ()}}, "dagster._gone:x cannot be read"),
        (forkserver, {"ensure_running": refuse_fork_server}, "AF_UNIX path too long"),
    ],
    ids=["a changed Dagster", "no fork server"],
)
def test_without_what_it_stands_on_the_stock_code_server_runs_with_one_warning(
    place: Any, changed: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands: list[list[str]] = []

    def replace(_program: str, command: list[str]) -> None:
        commands.append(command)
        raise ReplacedError

    monkeypatch.setattr(os, "execv", replace)
    for name, value in changed.items():
        monkeypatch.setattr(place, name, value)
    with caplog.at_level(logging.WARNING), pytest.raises(ReplacedError):
        launcher.serve(["--socket", "s"])
    assert commands == [[sys.executable, "-m", "dagster", "api", "grpc", "--socket", "s"]]
    (warning,) = caplog.messages
    assert said in warning


def test_telling_a_run_that_hears_nothing_to_end_does_not_wait_for_it() -> None:
    event = launcher._Context().Event()
    event._cond._sleeping_count.release()  # one waits for it, and will not wake up
    setting = threading.Thread(target=event.set, daemon=True)
    setting.start()
    setting.join(30)
    assert not setting.is_alive()
    event._cond._woken_count.release()


class Runs:
    """A code server with runs that end `after_s`, or when they are cancelled, or only when they are killed."""

    def __init__(self, **runs: str | float) -> None:
        self.now_s = 0.0
        self.done: list[str] = []
        self._shutdown_once_executions_finish_event = SimpleNamespace(set=lambda: self.done.append("refuse"))
        self._until = runs
        self._executions = {name: (SimpleNamespace(kill=self._note("kill", name)), None) for name in runs}
        self.is_away = False
        self._termination_events = {name: SimpleNamespace(set=self._note("cancel", name)) for name in runs}

    def _note(self, deed: str, name: str) -> Any:
        return lambda: self.done.append(f"{deed} {name}")

    def _check_for_orphaned_runs(self) -> None:
        if self.is_away:
            raise click.ClickException("no database")
        for name in list(self._executions):
            until = self._until[name]
            ended = self.now_s >= until if isinstance(until, float) else f"{until} {name}" in self.done
            if ended:
                del self._executions[name]

    def cleanup(self) -> None:
        """Nothing to close."""

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def _no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_reference: object) -> None:
        raise dg.DagsterError("no database")

    monkeypatch.setattr(dg.DagsterInstance, "from_ref", refuse)


@pytest.mark.usefixtures("_no_instance")
@pytest.mark.parametrize(
    ("runs", "done"),
    [
        (Runs(), []),
        (Runs(short=1.0), []),
        (Runs(short=1.0, long="cancel"), ["cancel long"]),
        (Runs(deaf="kill", long="cancel"), ["cancel deaf", "cancel long", "kill deaf"]),
    ],
    ids=["none", "short", "long", "deaf"],
)
def test_a_server_that_stops_lets_runs_finish_then_cancels_then_kills(runs: Runs, done: list[str]) -> None:
    launcher.end_runs(runs, clock=lambda: runs.now_s, sleep=runs.sleep)
    assert runs.done == ["refuse", *done]
    assert runs._executions == {}
    assert runs.now_s < launcher.FINISH_WITHIN_S + launcher.CANCEL_WITHIN_S + launcher.CLEAR_WITHIN_S


@pytest.mark.usefixtures("_no_instance")
def test_without_a_database_runs_are_looked_at_again_and_in_the_end_killed() -> None:
    runs = Runs(short=0.0)
    server = launcher.build_server(lambda: runs)
    runs.is_away = True
    server._check_for_orphaned_runs()
    assert list(runs._executions) == ["short"]
    launcher.end_runs(server, clock=lambda: runs.now_s, sleep=runs.sleep)
    assert runs.done == ["refuse", "cancel short", "kill short"]
    runs.is_away = False
    server._check_for_orphaned_runs()
    assert runs._executions == {}
