"""``make freshness``: from a race falling due to its rows being committed, under ``raceday up``, split into its parts.

Between two batches the same races are polled by plain threads: the floor, interleaved with what it is compared with.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.cadence import LAST_MINUTES, Batch, LiveRace, Poll
from benchmarks.live_day import EVENTS, LiveDay, open_live_day
from benchmarks.soak import LATENCY_MS, wait_for_batches, wait_until
from raceday_dagster.bench.contenders import run_threads
from raceday_dagster.bench.statistics import find_percentile
from raceday_dagster.defs.concurrency import DEFAULT_CONCURRENCY
from raceday_dagster.sandbox.sandbox import IDENTITY

SLOT = timedelta(seconds=15)
CATEGORIES = "T"
"""Gallops alone: of the simulated day's races about five a batch."""
HALF_WAY = timedelta(seconds=8)

# Dagster's instants are UTC without saying so.
MARKS = """
SELECT run_id,
    min(timestamp) FILTER (WHERE dagster_event_type = 'PIPELINE_STARTING') AS asked_at,
    min(timestamp) FILTER (WHERE dagster_event_type = 'PIPELINE_START') AS begun_at,
    min(timestamp) FILTER (WHERE dagster_event_type = 'STEP_START' AND step_key LIKE '%fetch_race%') AS fetching_at,
    max(timestamp) FILTER (WHERE dagster_event_type = 'PIPELINE_SUCCESS') AS done_at,
    count(*) AS events
FROM event_logs WHERE run_id = ANY (:run_ids) GROUP BY run_id
"""


@dataclass(frozen=True)
class Split:
    """The parts of one batch, seconds after its races fell due; before that, negative."""

    created_s: float
    asked_s: float
    begun_s: float
    fetching_s: float
    committed_s: Sequence[float]
    """Of its races in their last five minutes."""
    done_s: float
    races: int
    events: int


def main() -> None:
    """Runs the benchmark in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long batches are collected (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raceday-freshness-") as folder:
        with open_live_day(Path(folder), latency_ms=LATENCY_MS, categories=CATEGORIES) as day:
            os.environ.update(day.read_state()["environment"] | IDENTITY)
            began_at = wait_for_batches(day)
            cpu_s, (events,) = day.read_cpu_s(), day.ask(EVENTS, "DAGSTER_PG_URL")
            floor_s = run_floor(day, began_at + timedelta(minutes=arguments.minutes))
            splits = split_batches(day, began_at)
            hours = (datetime.now(UTC) - began_at) / timedelta(hours=1)
            (events_after,) = day.ask(EVENTS, "DAGSTER_PG_URL")
            used_s = {name: after_s - cpu_s[name] for name, after_s in day.read_cpu_s().items()}
        print_splits(splits, floor_s)
        print_costs(used_s, len(splits), hours, events_after["count"] - events["count"])


def run_floor(day: LiveDay, until: datetime) -> list[float]:
    """Polls the races in their last minutes by plain threads half-way between two slots; how long each time took."""
    taken_s: list[float] = []
    while (now := datetime.now(UTC)) < until:
        slot = datetime.fromtimestamp(now.timestamp() // SLOT.total_seconds() * SLOT.total_seconds(), UTC)
        wait_until(slot + SLOT + HALF_WAY)
        race_ids = [race.race_id for race in day.read_races() if is_live(race, datetime.now(UTC))]
        if race_ids:
            started_s = time.perf_counter()
            run_threads(race_ids, DEFAULT_CONCURRENCY)
            taken_s.append(time.perf_counter() - started_s)
    return taken_s


def is_live(race: LiveRace, now: datetime) -> bool:
    """Whether a race is in its last five minutes, or started and not over."""
    return race.status not in {"final", "abandoned"} and -timedelta(hours=2) < race.start_time - now <= LAST_MINUTES


def split_batches(day: LiveDay, began_at: datetime) -> list[Split]:
    """The batches since ``began_at`` that ended well and held a race in its last minutes."""
    batches = [batch for batch in day.read_batches() if batch.due_at >= began_at and batch.status == "SUCCESS"]
    starts = {race.race_id: race.start_time for race in day.read_races()}
    marks = {
        row["run_id"]: row for row in day.ask(MARKS, "DAGSTER_PG_URL", run_ids=[batch.run_id for batch in batches])
    }
    polls = day.read_polls()
    splits = (_split(batch, marks[batch.run_id], starts, polls) for batch in batches)
    return [split for split in splits if split.committed_s]


def _split(batch: Batch, marks: Mapping[str, Any], starts: Mapping[str, datetime], polls: Sequence[Poll]) -> Split:
    def after_due_s(instant: datetime) -> float:
        return (instant.replace(tzinfo=UTC) - batch.due_at).total_seconds()

    own = [poll for poll in polls if poll.run_id == batch.run_id]
    return Split(
        created_s=after_due_s(batch.created_at),
        asked_s=after_due_s(marks["asked_at"]),
        begun_s=after_due_s(marks["begun_at"]),
        fetching_s=after_due_s(marks["fetching_at"]),
        committed_s=[
            after_due_s(poll.committed_at) for poll in own if starts[poll.race_id] - batch.due_at <= LAST_MINUTES
        ],
        done_s=after_due_s(marks["done_at"]),
        races=len(own),
        events=marks["events"],
    )


def print_splits(splits: Sequence[Split], floor_s: Sequence[float]) -> None:
    """The Markdown of README.md."""
    committed_s = [value for split in splits for value in split.committed_s]
    batch_s = [max(split.committed_s) for split in splits]
    columns = {
        "the sensor has decided, the run is stored": [split.created_s for split in splits],
        "its launch is asked for": [split.asked_s for split in splits],
        "its process runs the job": [split.begun_s for split in splits],
        "the first fetch begins": [split.fetching_s for split in splits],
        "a race in its last five minutes is committed": committed_s,
        "all of these of a batch are committed": batch_s,
        "the run has ended, races further away included": [split.done_s for split in splits],
    }
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {len(splits)} batches at {LATENCY_MS} ms\n")
    print("| seconds after the races fell due | median | p95 | max |\n|---|--:|--:|--:|")
    for name, values in columns.items():
        print(f"| {name} | {statistics.median(values):.2f} | {find_percentile(values, 0.95):.2f} | {max(values):.2f} |")
    live = statistics.median(len(split.committed_s) for split in splits)
    print(
        f"\n{statistics.median(split.races for split in splits):.0f} races a batch, {live:.0f} in their last minutes."
    )
    ratio = statistics.median(batch_s) / statistics.median(floor_s)
    print(
        f"Plain threads, interleaved, the races in their last minutes: {statistics.median(floor_s):.2f} s "
        f"({len(floor_s)} times); from due to committed under raceday up is {ratio:.2f} times that."
    )


def print_costs(used_s: Mapping[str, float], batches: int, hours: float, events: int) -> None:
    """What an hour costs."""
    print(f"\n{used_s['run-server'] / batches:.2f} CPU-s a batch in the run server and its run workers.")
    print("An hour: " + ", ".join(f"{name} {value / hours:.0f} CPU-s" for name, value in used_s.items()), end="")
    print(f", {events / hours:.0f} event rows, {batches / hours:.0f} batches.")


if __name__ == "__main__":
    main()
