"""``make soak``: ``raceday up`` for ten minutes, in which a daemon hangs and a run is killed, and what came of it.

Exits with 1 when a poll was missed or made twice outside the two outages, or when a race is half there.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.cadence import Batch, LiveRace, Outage, Poll, Verdict, judge
from benchmarks.live_day import EVENTS, HALF_RACES, SIZE, DayWatch, LiveDay, open_live_day
from raceday_dagster.bench.statistics import find_percentile
from raceday_dagster_tests.waiting import wait_for

LATENCY_MS = 300
LOADED_WITHIN_S = 120
RECOVERED_WITHIN = timedelta(seconds=45)
"""From when it hangs: it is noticed, a new daemon comes up, its first tick, and the next slot."""


@dataclass(frozen=True)
class Soaked:
    """What a soak came to."""

    verdict: Verdict
    races: Sequence[LiveRace]
    batches: Sequence[Batch]
    polls: Sequence[Poll]
    outages: Sequence[Outage]
    half_races: Sequence[str]
    span: timedelta
    cpu_s: Mapping[str, float]
    events: int
    sizes_mb: Mapping[str, float]
    memory: Mapping[str, str]


def main() -> None:
    """Runs the soak in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long races are followed (default 10)")
    parser.add_argument("--no-kills", action="store_true", help="let everything live and work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raceday-soak-") as folder:
        with open_live_day(Path(folder), latency_ms=LATENCY_MS) as day:
            soaked = soak(day, timedelta(minutes=arguments.minutes), kills=not arguments.no_kills)
        print_soaked(soaked)
        if soaked.verdict.missed or soaked.verdict.twice or soaked.half_races:
            sys.exit(1)


def soak(day: LiveDay, span: timedelta, *, kills: bool) -> Soaked:
    """Follows a day that is up for ``span`` from its first live batch on, and judges it.

    A third of it passes before a daemon hangs, one until a run is killed, and one after that.
    """
    began_at = wait_for_batches(day)
    cpu_s, (events,) = day.read_cpu_s(), day.ask(EVENTS, "DAGSTER_PG_URL")
    outages: list[Outage] = []
    third_s = span.total_seconds() / 3
    with DayWatch(day) as watch:
        time.sleep(third_s)
        if kills:
            with outage(outages):
                day.stop("daemon")
        time.sleep(third_s)
        if kills:
            with outage(outages):
                kill_run(day)
        time.sleep(third_s)
    ended_at = datetime.now(UTC)
    races, polls, batches = day.read_races(), day.read_polls(), day.read_batches()
    (events_after,) = day.ask(EVENTS, "DAGSTER_PG_URL")
    sizes = {
        name: day.ask(SIZE, variable)[0]["pg_database_size"] / 1e6
        for name, variable in (("races", "DATABASE_URL"), ("dagster", "DAGSTER_PG_URL"))
    }
    return Soaked(
        verdict=judge(races, [poll for poll in polls if poll.polled_at >= began_at], batches, ended_at, outages),
        races=races,
        batches=[batch for batch in batches if batch.due_at >= began_at],
        polls=polls,
        outages=outages,
        half_races=[row["race_id"] for row in day.ask(HALF_RACES)],
        span=ended_at - began_at,
        cpu_s={name: used_s - cpu_s.get(name, 0.0) for name, used_s in day.read_cpu_s().items()},
        events=events_after["count"] - events["count"],
        sizes_mb=sizes,
        memory=watch.describe_memory(),
    )


def wait_for_batches(day: LiveDay) -> datetime:
    """Returns when two live batches are there, so that the races have been polled for the first time."""
    wait_for(lambda: len(day.read_batches()) >= 2, LOADED_WITHIN_S, lambda: f"no race was polled: see {day.home}")
    return datetime.now(UTC)


def kill_run(day: LiveDay) -> None:
    """SIGKILL to a live batch in the middle of its work."""

    def kill() -> bool:
        if workers := day.find_run_workers():
            time.sleep(0.4)  # into its fetches
            if workers[0].is_running():
                workers[0].kill()
                return True
        return False

    wait_for(kill, LOADED_WITHIN_S, lambda: "no run was there to be killed")


@contextmanager
def outage(outages: list[Outage]) -> Iterator[None]:
    """Notes what happens in the block as an outage that may last until everything has recovered."""
    began_at = datetime.now(UTC)
    yield
    outages.append(Outage(began_at, datetime.now(UTC) + RECOVERED_WITHIN))


def wait_until(instant: datetime) -> None:
    """Sleeps until an instant."""
    time.sleep(max(0.0, (instant - datetime.now(UTC)).total_seconds()))


def print_soaked(soaked: Soaked) -> None:
    """The Markdown of README.md."""
    verdict, hours = soaked.verdict, soaked.span / timedelta(hours=1)
    gaps, lags, far = verdict.last_minutes_gaps_s, verdict.lags_s, verdict.far_lags_s
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {soaked.span / timedelta(minutes=1):.1f} minutes at {LATENCY_MS} ms\n")
    print("| figure | measured |\n|---|--:|")
    rows = {
        "live batches": len(soaked.batches),
        "polls in the live lane, of races": f"{verdict.polls} of {verdict.races}",
        "most races in their last minutes in one batch": verdict.most_live_at_once,
        "missed, made twice, failed": f"{len(verdict.missed)}, {len(verdict.twice)}, {len(verdict.failed)}",
        "gap in the last five minutes, s: p50, p99, max": _describe(gaps, (0.5, 0.99, 1)),
        "gap across an outage, s: max": _describe(verdict.outage_gaps_s, (1,)),
        "due to committed, last five minutes, s: p50, p95, max": _describe(lags, (0.5, 0.95, 1)),
        "due to committed, races further away, s: p50, p95, max": _describe(far, (0.5, 0.95, 1)),
        "half races": len(soaked.half_races),
        **{f"CPU-s an hour, {name}": f"{used_s / hours:.0f}" for name, used_s in soaked.cpu_s.items()},
        "event rows an hour": f"{soaked.events / hours:.0f}",
        **{f"database {name}, MB at the end": f"{size:.0f}" for name, size in soaked.sizes_mb.items()},
        **{f"memory, MB at the start and the end, {name}": told for name, told in soaked.memory.items()},
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for line in (*verdict.missed, *verdict.twice, *verdict.failed):
        print(line)


def _describe(values: Sequence[float], shares: Sequence[float]) -> str:
    return ", ".join(f"{find_percentile(values, share):.2f}" for share in shares)


if __name__ == "__main__":
    main()
