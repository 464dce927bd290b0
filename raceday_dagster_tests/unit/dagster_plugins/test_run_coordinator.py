"""Which run waits for the queue and which does not, and what of Dagster that stands on."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance import InstanceRef
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._utils.tags import TagConcurrencyLimitsCounter

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE, QUEUED, LiveLaneRunCoordinator
from raceday_dagster.dagster_plugins.run_launcher import RunServerLauncher

DAGSTER_YAML = Path(__file__).parents[3] / "dagster.yaml"


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


def test_dagster_yaml_names_the_coordinator_and_the_launcher_and_dagster_takes_them(tmp_path: Path) -> None:
    written = yaml.safe_load(DAGSTER_YAML.read_text(encoding="utf-8"))
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({name: written[name] for name in ("run_coordinator", "run_launcher", "scheduler")}),
        encoding="utf-8",
    )
    reference = InstanceRef.from_dir(str(tmp_path))
    coordinator = reference.run_coordinator
    assert isinstance(coordinator, LiveLaneRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1
    assert isinstance(reference.run_launcher, RunServerLauncher)
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


def test_what_the_coordinator_stands_on_is_as_it_was() -> None:
    assert set(inspect.signature(dg.DagsterInstance.launch_run).parameters) == {"self", "run_id", "workspace"}
    assert SubmitRunContext._fields[:2] == ("dagster_run", "workspace")
