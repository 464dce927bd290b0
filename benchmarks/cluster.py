"""``make scale``: how many races a second 1, 2 and 4 machines poll, and what a machine that dies costs a live day.

All machines are processes of this one. The broker and the pooler are Debian's (`make cluster`).
"""

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
from sqlalchemy import NullPool, create_engine, make_url, text

from benchmarks.cadence import Outage, judge
from benchmarks.cluster_servers import Cluster, find_missing_server, open_broker, open_cluster, open_pgbouncer
from benchmarks.live_day import HALF_RACES, open_live_day
from benchmarks.soak import LATENCY_MS, wait_for_batches, wait_until
from raceday_dagster.bench.contenders import process_races
from raceday_dagster.bench.measure import read_cpu_s
from raceday_dagster.bench.statistics import find_percentile
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import IDENTITY, choose_simulation, open_sandbox
from raceday_dagster_tests.integration.race_day import ConnectionWatch

RACES = 700
RACES_PER_RUN = 50
MEETINGS = 80
"""The simulator's have about nine races each."""
RUNS_AT_ONCE = 2
"""Of each machine."""
WITHIN_S = 300
LOST_WITHIN = timedelta(seconds=45)
RUN_POLLS = "SELECT count(*), count(DISTINCT race_id) FROM race_polls WHERE run_id = ANY (:runs) AND status = 'success'"


@dataclass(frozen=True)
class Shared:
    """What the machines of one measurement share."""

    server: EmbeddedPostgres
    cluster: Cluster
    role: str


@contextmanager
def open_shared(folder: Path, environment: Mapping[str, str]) -> Iterator[Shared]:
    """A broker, a pooler in front of the database of an environment, and no machine yet."""
    server = EmbeddedPostgres(Path(environment["RACEDAY_HOME"]))
    url = make_url(environment["DATABASE_URL"])
    (folder / "machines").mkdir()
    with (
        open_broker(folder) as broker,
        open_pgbouncer(folder / "pgbouncer", server, environment["DATABASE_URL"]) as pooled,
    ):
        given = {**environment, **IDENTITY, "DATABASE_URL": pooled, "BROKER_URL": broker.url}
        before = dict(os.environ)
        os.environ.update(given)
        try:
            with open_cluster(folder / "machines", broker, given) as cluster:
                yield Shared(server, cluster, url.username or "")
        finally:
            os.environ.clear()
            os.environ.update(before)


def main() -> None:
    """Runs both parts in a folder of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", default="1,2,4", help="how many, one after the other (default 1,2,4)")
    parser.add_argument("--minutes", type=float, default=3, help="of the live day; 0 leaves it out (default 3)")
    arguments = parser.parse_args()
    if missing := find_missing_server():
        sys.exit(missing)
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {RACES} races at {LATENCY_MS} ms, {RACES_PER_RUN} a run\n")
    with tempfile.TemporaryDirectory(prefix="raceday-cluster-") as name:
        Path(name).chmod(0o755)
        measure_throughput(Path(name), [int(count) for count in arguments.machines.split(",")])
    if arguments.minutes:
        with tempfile.TemporaryDirectory(prefix="raceday-cluster-") as name:
            Path(name).chmod(0o755)
            follow_day(Path(name), timedelta(minutes=arguments.minutes))


def measure_throughput(folder: Path, counts: Sequence[int]) -> None:
    """Polls ``RACES`` races with each number of machines, and prints a row for each."""
    simulation = replace(choose_simulation(datetime.now(UTC)), meetings=MEETINGS, latency_ms=LATENCY_MS)
    print("| machines | races a second | launch to start, s: median, max | CPU-s a race | most connections | runs |")
    print("|--:|--:|--:|--:|--:|---|")
    with (
        open_sandbox({**os.environ, "RACEDAY_HOME": str(folder / "sandbox")}, simulation) as sandbox,
        open_shared(folder, sandbox.environment) as shared,
    ):
        race_ids = list_race_ids(sandbox.environment["NZTAB_API_URL"], simulation.racing_day)
        for count in counts:
            names = [f"m{number}" for number in range(count)]
            shared.cluster.start_machines(*names, runs=RUNS_AT_ONCE)
            poll(shared, race_ids)  # a day is loaded once and polled all day
            with ConnectionWatch(shared.server, shared.role) as watch:
                print(poll(shared, race_ids).describe(count, max(watch.samples)), flush=True)
            for machine in list(shared.cluster.machines.values()):
                shared.cluster.stop(machine)


def list_race_ids(api_url: str, racing_day: date) -> list[str]:
    """Ids of the simulated day's races, of every country and kind."""
    with urllib.request.urlopen(
        f"{api_url}/racing/meetings?date_from={racing_day}&date_to={racing_day}&limit=200"
    ) as answer:
        meetings = json.load(answer)["data"]["meetings"]
    return [race["id"] for meeting in meetings for race in meeting["races"]][:RACES]


@dataclass(frozen=True)
class Throughput:
    """What one round came to."""

    races: int
    span_s: float
    cpu_s: float
    starts_s: Sequence[float]
    runs: str

    def describe(self, machines: int, most_connections: int) -> str:
        """A row of the table."""
        starts = ", ".join(f"{find_percentile(self.starts_s, share):.2f}" for share in (0.5, 1))
        return (
            f"| {machines} | {self.races / self.span_s:.1f} | {starts} | {self.cpu_s / self.races:.3f} "
            f"| {most_connections} | {self.runs} |"
        )


def poll(shared: Shared, race_ids: Sequence[str]) -> Throughput:
    """Polls each race once; returns when every run has ended."""
    cluster = shared.cluster
    machines = [machine.process for machine in cluster.machines.values()]
    began_s, cpu_s = time.monotonic(), sum(read_cpu_s(process) for process in machines)
    shards = -(-len(race_ids) // RACES_PER_RUN)
    waiting = [race_ids[number::shards] for number in range(shards)]
    runs: list[str] = []
    unfinished: set[str] = set()
    give_up_at_s = time.monotonic() + WITHIN_S
    while waiting or unfinished:
        # One waits for each at work, and none as long as the 30 s after which a message ends.
        while waiting and len(unfinished) < 2 * RUNS_AT_ONCE * len(machines):
            runs.append(launch(cluster.instance, waiting.pop()))
            unfinished.add(runs[-1])
        if time.monotonic() > give_up_at_s:
            raise RuntimeError(f"the runs have not ended: {explain(cluster, runs)}")
        time.sleep(0.05)
        unfinished -= {
            run.run_id for run in cluster.instance.get_runs(dg.RunsFilter(run_ids=list(unfinished))) if run.is_finished
        }
    span_s = time.monotonic() - began_s
    cpu_s = sum(read_cpu_s(process) for process in machines) - cpu_s
    url = make_url(shared.server.superuser_url()).set(database=make_url(os.environ["DATABASE_URL"]).database)
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        polls, races = connection.execute(text(RUN_POLLS), {"runs": runs}).one()
    if (polls, races) != (len(race_ids), len(race_ids)):
        raise RuntimeError(f"{polls} polls of {races} races, not of {len(race_ids)}: {explain(cluster, runs)}")
    records = cluster.instance.get_run_records(dg.RunsFilter(run_ids=runs))
    statuses = [record.dagster_run.status.value for record in records]
    starts = [
        record.start_time - record.create_timestamp.timestamp() for record in records if record.start_time is not None
    ]
    told = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return Throughput(len(race_ids), span_s, cpu_s, starts, told)


def explain(cluster: Cluster, run_ids: Sequence[str]) -> str:
    """How runs ended, and what the machines said."""
    ends = [entry.message for run_id in run_ids for entry in cluster.instance.all_logs(run_id)[-3:]]
    return "\n".join((*ends, cluster.read_logs()))[-6000:]


def launch(instance: dg.DagsterInstance, race_ids: Sequence[str]) -> str:
    """A run of these races, given to the broker."""
    run = instance.create_run_for_job(
        process_races(),
        run_config={"ops": {"select_races": {"config": {"race_ids": list(race_ids)}}}},
        job_code_origin=dg.reconstructable(process_races).get_python_origin(),
    )
    instance.launch_run(run.run_id, cast("Any", None))
    return run.run_id


def follow_day(folder: Path, span: timedelta) -> None:
    """Follows a live day with three machines of which one dies, and prints what the ledger says of it."""
    simulation = replace(choose_simulation(datetime.now(UTC)), latency_ms=LATENCY_MS)
    shards = {"RACES_PER_RUN": "5", "RUNS_PER_TICK": "6"}
    home = folder / "up"
    with (
        open_sandbox({**os.environ, "RACEDAY_HOME": str(home)}, simulation) as sandbox,
        open_shared(folder, sandbox.environment) as shared,
    ):
        cluster = shared.cluster
        given = {name: value for name, value in cluster.environment.items() if name not in ("DAGSTER_HOME", "PATH")}
        cluster.start_machines("m0", "m1", "m2", runs=RUNS_AT_ONCE)
        with open_live_day(home, latency_ms=None, **{**given, **shards}) as day:
            began_at = wait_for_batches(day)
            wait_until(began_at + span / 2)
            died_at = datetime.now(UTC)
            cluster.kill(cluster.machines["m1"])
            wait_until(began_at + span)
            ended_at = datetime.now(UTC)
            races, polls, batches = day.read_races(), day.read_polls(), day.read_batches()
            half = day.ask(HALF_RACES)
    outage = Outage(died_at, died_at + LOST_WITHIN)
    verdict = judge(races, [poll for poll in polls if poll.polled_at >= began_at], batches, ended_at, [outage])
    lost_s = [
        (batch.ended_at - died_at).total_seconds()
        for batch in batches
        if batch.status == "FAILURE" and batch.ended_at is not None and batch.ended_at > died_at
    ]
    print("\n| a live day with three machines, one of which dies | |\n|---|--:|")
    rows = {
        "polls, of races": f"{verdict.polls} of {verdict.races}",
        "missed, made twice, failed": f"{len(verdict.missed)}, {len(verdict.twice)}, {len(verdict.failed)}",
        "longest gap of a live race, s, and across the death": f"{max(verdict.last_minutes_gaps_s, default=0):.1f}, "
        f"{max(verdict.outage_gaps_s, default=0):.1f}",
        "runs marked as failed, s after the death": ", ".join(f"{seconds:.1f}" for seconds in lost_s)
        or "none was at work",
        "half races": len(half),
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for line in (*verdict.missed, *verdict.twice, *verdict.failed):
        print(line)


if __name__ == "__main__":
    main()
