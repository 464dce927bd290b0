"""The largest day on a server and a simulator of its own, and what one measurement is."""

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import Engine, create_engine, make_url

from benchmarks.measure import NOT_OURS
from raceday_dagster.bench.measure import read_cpu_s, watching_memory
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.sandbox.demo import build_command
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import Sandbox, Simulation, open_sandbox
from raceday_dagster.settings import parse_database_url
from raceday_dagster.simulator.running import RunningSimulator

MEETINGS = 104
"""Of the simulated day; 80 of them, with 707 races, are of the countries and kinds that are followed."""
LATENCY_MS = 300
OPENED_BEFORE = timedelta(hours=1)
"""Since the first race started, so that there are races of every kind: over, running, soon, far."""
DATABASE = "raceday_saturday"


@dataclass(frozen=True)
class Taken:
    """What something took, once for each time it was done."""

    wall_ms: Sequence[float]
    cpu_ms: float
    """The mean over all times: of the process that did it and its children."""
    database_cpu_ms: float
    """The same of PostgreSQL."""

    @property
    def median_ms(self) -> float:
        """Of the wall."""
        return statistics.median(self.wall_ms)

    def __str__(self) -> str:
        times = f"{_round(self.median_ms)} ({_round(min(self.wall_ms))})"
        return f"{times}; CPU {_round(self.cpu_ms)} + {_round(self.database_cpu_ms)}"


@dataclass(frozen=True)
class Executed:
    """What a whole process took."""

    wall_s: float
    cpu_s: float
    database_cpu_s: float
    peak_mb: float

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s; CPU-s {self.cpu_s:.1f} + {self.database_cpu_s:.1f}; {self.peak_mb:.0f} MB"


@dataclass(frozen=True)
class Scene:
    """A day that is simulated, its databases, and the instance of Dagster that follows it."""

    home: Path
    sandbox: Sandbox
    simulation: Simulation
    server: EmbeddedPostgres
    instance: dg.DagsterInstance
    engine: Engine
    """On the races, as their owner."""
    admin: Engine
    """On the races, as the superuser, whom the limits of the owner do not concern."""
    dagster: Engine
    """On Dagster's own database."""

    @property
    def simulator(self) -> RunningSimulator:
        """The API."""
        assert self.sandbox.simulator is not None
        return self.sandbox.simulator

    @property
    def postmaster(self) -> Any:
        """The server's first process, as psutil has it."""
        import psutil

        return psutil.Process(self.server.status().pid)

    def ask(self, question: str, *, of: Engine | None = None, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query of the races' database, or of another."""
        with (of or self.engine).connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(question, values)]

    def time(self, work: Callable[[], object], times: int, server: Any = None) -> Taken:
        """Does something ``times``, if that is more than once after a first time for nothing.

        Args:
            server: The process (as psutil has it) that does it, if it is not this one.
        """

        def read_used_s() -> float:
            return _read_own_cpu_s() if server is None else read_cpu_s(server)

        if times > 1:
            work()
        cpu_s, database_s, wall_ms = read_used_s(), read_cpu_s(self.postmaster), []
        for _ in range(times):
            began_s = time.perf_counter()
            work()
            wall_ms.append(1000 * (time.perf_counter() - began_s))
        return Taken(
            wall_ms,
            1000 * (read_used_s() - cpu_s) / times,
            1000 * (read_cpu_s(self.postmaster) - database_s) / times,
        )

    def execute(self, job: str, config: Mapping[str, Any]) -> Executed:
        """Runs a job as ``dagster job execute`` does, once. Raises ``RuntimeError`` when it fails."""
        began_s, cpu_s, database_s = time.perf_counter(), _read_own_cpu_s(), read_cpu_s(self.postmaster)
        command = build_command(job, config, self.home / "runs")
        with (
            subprocess.Popen(command, env=self.sandbox.environment, stdout=subprocess.DEVNULL) as process,
            watching_memory(process.pid) as peak,
        ):
            code = process.wait()
        if code != 0:
            raise RuntimeError(f"{job} failed with exit code {code}: see {self.home}")
        return Executed(
            time.perf_counter() - began_s,
            _read_own_cpu_s() - cpu_s,
            read_cpu_s(self.postmaster) - database_s,
            peak.mb,
        )


@contextmanager
def open_scene(home: Path) -> Iterator[Scene]:
    """Starts all of it, on a server that does not wait for the disk, and stops it."""
    server = EmbeddedPostgres(home, fsync=False)
    server.start()
    now = datetime.now(UTC)
    simulation = Simulation(
        seed=11,
        racing_day=choose_current_racing_day(now),
        first_start=now - OPENED_BEFORE,
        database=DATABASE,
        fresh_database=True,
        latency_ms=LATENCY_MS,
        meetings=MEETINGS,
    )
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    with open_sandbox({**environment, "RACEDAY_HOME": str(home)}, simulation) as sandbox:
        os.environ.update(sandbox.environment)
        engine = create_engine(parse_database_url(sandbox.environment["DATABASE_URL"]), pool_size=1)
        admin = create_engine(make_url(server.superuser_url()).set(database=DATABASE), pool_size=1)
        dagster = create_engine(parse_database_url(sandbox.environment["DAGSTER_PG_URL"]), pool_size=1)
        try:
            with dg.DagsterInstance.get() as instance:
                yield Scene(home, sandbox, simulation, server, instance, engine, admin, dagster)
        finally:
            for opened in (engine, admin, dagster):
                opened.dispose()


def _read_own_cpu_s() -> float:
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in times)


def _round(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
