"""The memory of `raceday up` over a day's batches, made as fast as the machine makes them.

A day of 18 hours has 4,320 points of the grid, each with a batch. Here one follows the other: a real evaluation of the
sensor in the code server, a run submitted as the daemon does it, the run server's fork, the executor. The races are due
at once again because their polls in the ledger are dated back. The daemon's own rounds go on at their own pace, so its
growth is told by the hour.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any

import psutil
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from benchmarks.live_day import LiveDay, open_live_day
from benchmarks.saturday.costs import Figure
from benchmarks.saturday.scene import Scene
from raceday_dagster.bench.measure import read_memory_mb
from raceday_dagster.racing.cadence import GRID
from raceday_dagster.service.service_files import LOCATION
from raceday_dagster_tests.integration.dagster_plugins.launch_harness import create_run
from raceday_dagster_tests.waiting import wait_for

RACES = 12
"""Due in each tick."""
DAY_BATCHES = 18 * 3_600 // int(GRID.total_seconds())
SAMPLE_EVERY = 10
LIVE_CHOICE = """
UPDATE races SET status = 'final' WHERE status IN ('open', 'closed', 'interim') AND race_id NOT IN (
    SELECT race_id FROM races JOIN meetings USING (meeting_id)
    WHERE races.status = 'open' AND country IN ('NZ', 'AUS') AND type IN ('T', 'H')
    ORDER BY start_time DESC LIMIT %(count)s)
"""
DATE_BACK = """
UPDATE race_polls SET polled_at = polled_at - interval '3 minutes'
WHERE race_id IN (SELECT race_id FROM races WHERE status IN ('open', 'closed', 'interim'))
    AND polled_at > now() - interval '3 minutes'
"""


def memory(scene: Scene, minutes: float) -> Iterator[Figure]:
    """Megabytes of each process against the number of batches."""
    with scene.admin.begin() as connection:
        connection.exec_driver_sql(LIVE_CHOICE, {"count": RACES})
    variables = {
        name: value
        for name, value in scene.sandbox.environment.items()
        if name.startswith(("DATABASE_URL", "DAGSTER_", "NZTAB_"))
    }
    with open_live_day(scene.home, latency_ms=None, **variables) as day:
        samples, workers_mb, batches = follow(scene, day, minutes)
    yield Figure("at speed: batches, a minute", f"{batches:,}, {batches / minutes:.0f}")
    for name, points in samples.items():
        yield describe(name, points)
    if workers_mb:
        yield Figure("memory of a run worker, MB", f"at most {max(workers_mb):.0f} of its own")


def follow(
    scene: Scene, day: LiveDay, minutes: float
) -> tuple[Mapping[str, Sequence[tuple[float, float, float]]], Sequence[float], int]:
    """Batch after batch; by part: batches, hours and megabytes. And run workers' megabytes, and all batches."""
    samples: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    workers_mb: list[float] = []
    began_s, batches = time.monotonic(), 0
    with WorkspaceProcessContext(scene.instance, WorkspaceFileTarget([str(_find_workspace(day))])) as workspace:
        while (elapsed_s := time.monotonic() - began_s) < 60 * minutes:
            with scene.admin.begin() as connection:
                connection.exec_driver_sql(DATE_BACK)
            for request in evaluate(scene, workspace):
                run_id = submit(scene, workspace, request)
                workers_mb += [read_memory_mb(worker, "Private_Dirty") for worker in day.find_run_workers()]
                wait_for(lambda run_id=run_id: scene.instance.get_run_record_by_id(run_id).dagster_run.is_finished)
                batches += 1
            if batches % SAMPLE_EVERY == 0:
                for (name, _pid), mb in day.read_memory_mb().items():
                    samples[name].append((batches, elapsed_s / 3_600, mb))
    return samples, workers_mb, batches


def evaluate(scene: Scene, workspace: WorkspaceProcessContext) -> Sequence[Any]:
    """What the sensor asks for, from the code server."""
    location = workspace.create_request_context().get_code_location(LOCATION)
    (repository,) = location.get_repositories().values()
    handle = repository.handle
    data = location.get_sensor_execution_data(scene.instance, handle, "due_races", None, None, None, None, None)
    return data.run_requests or ()


def submit(scene: Scene, workspace: WorkspaceProcessContext, request: Any) -> str:
    """Makes a run of a sensor's request and launches it, as the daemon does."""
    context = workspace.create_request_context()
    (repository,) = context.get_code_location(LOCATION).get_repositories().values()
    run_id = create_run(scene.instance, repository, "process_races", request.run_config, request.tags)
    scene.instance.submit_run(run_id, context)
    return run_id


def describe(name: str, points: Sequence[tuple[float, float, float]]) -> Figure:
    """From the first to the last sample, and the growth after the first third, while caches and pools fill."""
    later = points[len(points) // 3 :]
    told = f"{points[0][2]:.0f} to {points[-1][2]:.0f}"
    if len(later) > 2:
        batches, hours, mb = zip(*later, strict=True)
        by_batch = 1_000 * linear_regression(batches, mb).slope
        by_hour = linear_regression(hours, mb).slope
        told += f"; {by_batch:+.1f} a thousand batches, {by_batch * DAY_BATCHES / 1_000:+.0f} for a day's"
        told += f"; {by_hour:+.0f} an hour"
    return Figure(f"memory of {name}, MB", told)


def _find_workspace(day: LiveDay) -> Path:
    command = psutil.Process(day.read_state()["children"]["web"]).cmdline()
    return Path(command[command.index("--workspace") + 1])
