"""``make bench``: a batch of five at 300 ms feed latency, three ways, interleaved.

Prints a Markdown table with medians and ranges; ratios are what to compare, for machines differ and are shared.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psutil

from benchmarks.contenders import run_job, run_processes, run_threads, threaded_job
from benchmarks.measure import NOT_OURS, read_cpu_s, watching_memory
from raceday_dagster.sandbox.demo import build_command
from raceday_dagster.sandbox.sandbox import Sandbox, Simulation, open_sandbox
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import read_next_races

RACES = 5
LATENCY_MS = 300


@dataclass
class Samples:
    """What one contender's runs came to."""

    name: str
    simulator_pid: int
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    memory_mb: float | None = None

    def measure(self, run: Callable[[], str], instance: dg.DagsterInstance) -> None:
        """Times one run and counts the events it left."""
        here = psutil.Process()
        cpu_s, started_s = read_cpu_s(here, self.simulator_pid), time.perf_counter()
        run_id = run()
        self.wall_s.append(time.perf_counter() - started_s)
        self.cpu_s.append(read_cpu_s(here, self.simulator_pid) - cpu_s)
        self.events.append(len(instance.all_logs(run_id)))


def main() -> None:
    """Runs the benchmark in a sandbox of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="runs of the two fast contenders (default 15)")
    parser.add_argument(
        "--slow-rounds", type=int, default=3, help="runs of the multiprocess executor (default 3; 0: none)"
    )
    arguments = parser.parse_args()
    simulation = Simulation(
        seed=11,
        racing_day=datetime.now(UTC).date(),
        first_start=datetime.now(UTC) + timedelta(minutes=2),
        database="raceday_bench",
        fresh_database=True,
        latency_ms=LATENCY_MS,
    )
    own = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    with open_sandbox(own, simulation) as sandbox:
        os.environ.update(sandbox.environment)
        contenders = compare(sandbox, arguments.rounds, arguments.slow_rounds)
    print_table(contenders)


def compare(sandbox: Sandbox, rounds: int, slow_rounds: int) -> list[Samples]:
    """Warm-up, then the contenders in turn, then the memory of a whole ``dagster job execute``."""
    assert sandbox.simulator is not None
    names = ("process_races", "plain threads", "multiprocess executor")
    threaded, floor, processes = (Samples(name, sandbox.simulator.pid) for name in names)
    with dg.DagsterInstance.get() as instance:
        run_baseline(sandbox)
        engine = build_engine(sandbox.environment["DATABASE_URL"], pool_max=1)
        race_ids = [race.race_id for race in read_next_races(engine, after=datetime.now(UTC), limit=RACES)]
        engine.dispose()
        run_job(threaded_job, instance, race_ids)
        run_threads(str(uuid4()), race_ids)
        every = max(1, rounds // max(1, slow_rounds))
        for number in range(rounds):
            threaded.measure(lambda: run_job(threaded_job, instance, race_ids), instance)
            floor.measure(lambda: run_floor(race_ids), instance)
            if number % every == 0 and len(processes.wall_s) < slow_rounds:
                processes.measure(lambda: run_processes(instance, race_ids), instance)
        threaded.memory_mb = measure_memory(sandbox, race_ids)
    return [threaded, floor, processes]


def run_floor(race_ids: list[str]) -> str:
    """One run of the floor under a run id of its own."""
    run_id = str(uuid4())
    run_threads(run_id, race_ids)
    return run_id


def run_baseline(sandbox: Sandbox) -> None:
    """Loads the simulated day."""
    day = datetime.now(UTC).date().isoformat()
    config = {"ops": {"fetch_meetings": {"config": {"racing_day": day}}}}
    command = build_command("daily_baseline", config, find_folder(sandbox))
    subprocess.run(command, env=sandbox.environment, check=True, capture_output=True)


def find_folder(sandbox: Sandbox) -> Path:
    """Where run configs are written."""
    return Path(sandbox.environment["RACEDAY_HOME"]) / "bench"


def measure_memory(sandbox: Sandbox, race_ids: list[str]) -> float:
    """Peak memory of a whole ``dagster job execute`` with its workers, in MB."""
    config = {"ops": {"select_races": {"config": {"race_ids": race_ids}}}}
    with subprocess.Popen(
        build_command("process_races", config, find_folder(sandbox)),
        env=sandbox.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        with watching_memory(process.pid) as peak:
            assert process.wait() == 0
        return peak.mb


def print_table(contenders: list[Samples]) -> None:
    """The Markdown of README.md."""
    floor_s = statistics.median(contenders[1].wall_s)
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, {sys.platform}\n"
    )
    print("| contender | runs | wall, s: median (range) | against plain threads | CPU-s | events | peak memory, MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for samples in filter(lambda contender: contender.wall_s, contenders):
        wall = statistics.median(samples.wall_s)
        memory = "" if samples.memory_mb is None else f"{samples.memory_mb:.0f}"
        print(
            f"| {samples.name} | {len(samples.wall_s)} "
            f"| {wall:.2f} ({min(samples.wall_s):.2f} to {max(samples.wall_s):.2f}) | {wall / floor_s:.2f} x "
            f"| {statistics.median(samples.cpu_s):.2f} | {statistics.median(samples.events):.0f} | {memory} |"
        )
    if contenders[2].wall_s:
        ratio = statistics.median(contenders[2].wall_s) / statistics.median(contenders[0].wall_s)
        print(f"\nprocess_races is {ratio:.0f} times faster than the multiprocess executor.")


if __name__ == "__main__":
    main()
