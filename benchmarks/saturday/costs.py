"""What the largest day costs on a database, be it one day old or a month: ticks, batches, loads, pages, views."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from benchmarks.saturday.scene import Scene
from raceday_dagster.bench.contenders import process_races, run_job
from raceday_dagster.defs.automation.due_races import Shards, request_due_races
from raceday_dagster.defs.automation.sensors import SensorReader
from raceday_dagster.defs.concurrency import DEFAULT_CONCURRENCY

TICK_TARGET_MS, PAGE_TARGET_MS, VIEW_TARGET_MS, RACE_TARGET_MS = 1_000, 300, 20, 2_000
GROWTH = {1: 7, 5: 7, 12: 5, 50: 2, 200: 1}
"""Races of a batch, and how often it is run."""
ASKED_RACES = 15
VIEWS = "SELECT viewname FROM pg_views WHERE schemaname = current_schema() ORDER BY 1"
OF_TODAY = """
SELECT race_id FROM races
WHERE racing_day = %(day)s AND status <> 'abandoned' ORDER BY md5(race_id) LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Figure:
    """A line of the table: what was measured, and whether it is within its budget (``None`` without one)."""

    name: str
    value: str
    is_kept: bool | None = None
    budget: str = ""


def choose_races(scene: Scene, count: int) -> list[str]:
    """Races of the day, the same for the same count."""
    rows = scene.ask(OF_TODAY, day=scene.simulation.racing_day, limit=count)
    return [race_id for (race_id,) in rows]


def load_day(scene: Scene) -> Figure:
    """`daily_baseline`, as a process of its own."""
    config = {"ops": {"fetch_meetings": {"config": {"racing_day": scene.simulation.racing_day.isoformat()}}}}
    scene.simulator.clear_requests()
    executed = scene.execute("daily_baseline", config)
    asked = scene.simulator.requests()
    (races,) = scene.ask("SELECT count(*) FROM races WHERE racing_day = %(day)s", day=scene.simulation.racing_day)
    told = f"{executed}; {asked['total']} requests, {asked['events_in_flight_peak']} events at once"
    return Figure(f"`daily_baseline`, {races[0]} races", told, executed.wall_s < 900, "15 min")


def tick(scene: Scene) -> Iterator[Figure]:
    """One evaluation of `due_races`, which must find races that are due, and what it asks for."""
    asked: list[int] = []
    instance_ref = scene.instance.get_ref()

    def evaluate() -> None:
        with dg.SensorEvaluationContext(instance_ref=instance_ref) as context:
            requests = request_due_races(SensorReader(context), Shards(), sleep=time.sleep)
        asked.append(0 if isinstance(requests, dg.SkipReason) else sum(map(len, map(_read_races, requests))))

    taken = scene.time(evaluate, 15)
    yield Figure("tick of `due_races`, ms", str(taken), taken.median_ms < TICK_TARGET_MS, f"{TICK_TARGET_MS} ms")
    yield Figure("... that asked for a run; its races", f"{sum(map(bool, asked))} of {len(asked)}; {max(asked)}")


def _read_races(request: dg.RunRequest) -> Sequence[str]:
    config: Any = request.run_config
    races: Sequence[str] = config["ops"]["select_races"]["config"]["race_ids"]
    return races


def batches(scene: Scene) -> Iterator[Figure]:
    """`process_races` for more and more races."""
    for count, times in GROWTH.items():
        race_ids = choose_races(scene, count)
        run_ids: list[str] = []

        def run(race_ids: Sequence[str] = race_ids, run_ids: list[str] = run_ids) -> None:
            in_flight = {"execution": {"config": {"max_concurrent": DEFAULT_CONCURRENCY}}}
            run_ids.append(run_job(process_races, scene.instance, race_ids, in_flight))

        taken = scene.time(run, times)
        (polls,) = scene.ask(
            "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY total_ms), count(*) FILTER (WHERE status = 'failed'), "
            "(SELECT max(pool_peak) FROM batches WHERE run_id = ANY (%(runs)s)) "
            "FROM race_polls WHERE run_id = ANY (%(runs)s)",
            runs=run_ids[-times:],
        )
        (events,) = scene.ask(
            "SELECT count(*) FROM event_logs WHERE run_id = %(run)s", of=scene.dagster, run=run_ids[-1]
        )
        executed = scene.execute("process_races", {"ops": {"select_races": {"config": {"race_ids": race_ids}}}})
        yield Figure(
            f"batch of {count}, ms",
            f"{taken}; a race p95 {polls[0]:.0f}, {polls[1]} failed; {events[0]} events; {polls[2]} connections; "
            f"{executed.peak_mb:.0f} MB as a process",
            polls[0] < RACE_TARGET_MS and polls[1] == 0,
            f"a race {RACE_TARGET_MS} ms",
        )


def views(scene: Scene) -> Iterator[Figure]:
    """Each view, asked about races of the day a second time, its answer read whole."""
    race_ids = choose_races(scene, ASKED_RACES)
    with scene.engine.connect() as connection:
        for view in connection.exec_driver_sql(VIEWS).scalars().all():
            question = " ".join(("SELECT * FROM", view, "WHERE race_id = %(race_id)s"))
            taken_ms = []
            for race_id in [*race_ids, *race_ids]:
                began_s = time.perf_counter()
                connection.exec_driver_sql(question, {"race_id": race_id}).all()
                taken_ms.append(1000 * (time.perf_counter() - began_s))
            again = taken_ms[len(race_ids) :]
            median = statistics.median(again)
            value = (
                f"{median:.1f} ({min(again):.1f}); the first time {statistics.median(taken_ms[: len(race_ids)]):.1f}"
            )
            yield Figure(f"view `{view}` of a race, ms", value, median < VIEW_TARGET_MS, f"{VIEW_TARGET_MS} ms")


def describe_moment() -> str:
    """When, and what else the machine did."""
    with open("/proc/loadavg", encoding="ascii") as file:
        load = file.read().split()[0]
    return f"{datetime.now(UTC):%H:%M}, load {load}"
