"""A real ``raceday up`` on a sandbox of its own, and what its databases say afterwards of every poll.

Belongs here: starting it, ending it, reading the ledger and Dagster's runs. What is good or bad is in ``cadence``.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import psutil
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from benchmarks.cadence import Batch, LiveRace, Poll
from benchmarks.measure import NOT_OURS, MemorySample, find_growth_mb_h
from raceday_dagster.bench.measure import read_cpu_s, read_memory_mb
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.commands import find_free_port

POSTGRES = "postgres"
READY_WITHIN_S = 120
SAMPLE_EVERY_S = 0.5
MEMORY_EVERY = 10
"""Samples of connections."""
STOP_WITHIN_S = 30

POLLS = """
SELECT run_id, race_id, polled_at, total_ms - fetch_ms AS after_ms, status, error_stage, error_message
FROM race_polls ORDER BY polled_at, race_id
"""
RACES = "SELECT race_id, start_time, status FROM races ORDER BY start_time, race_id"
HALF_RACES = """
SELECT race.race_id FROM races AS race
WHERE race.last_poll_time IS NOT NULL
    AND NOT EXISTS (SELECT FROM entrants AS entrant WHERE entrant.race_id = race.race_id)
"""
BATCHES = """
SELECT run.run_id, run.status, run.create_timestamp, run.start_time, run.end_time, run.run_body, due.value AS due_at
FROM runs AS run
JOIN run_tags AS lane ON lane.run_id = run.run_id AND lane.key = 'raceday/lane' AND lane.value = 'live'
JOIN run_tags AS due ON due.run_id = run.run_id AND due.key = 'raceday/due_at'
ORDER BY run.create_timestamp
"""
RUN_WORKERS = """
SELECT worker.value FROM run_tags AS worker JOIN runs AS run ON run.run_id = worker.run_id
WHERE worker.key = 'raceday/worker' AND run.status IN ('STARTING', 'STARTED')
"""
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = :role"
EVENTS = "SELECT count(*) FROM event_logs"
SIZE = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True)
class LiveDay:
    """A running ``raceday up``."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    log: Path

    def read_state(self) -> dict[str, Any]:
        """What it says of itself: ``environment`` and the pids of its ``children``."""
        state: dict[str, Any] = json.loads((self.home / "service.json").read_text(encoding="utf-8"))
        return state

    def kill(self, child: str) -> int:
        """SIGKILL to one of its children, by name; the pid it had."""
        pid = int(self.read_state()["children"][child])
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, *children: str) -> None:
        """SIGSTOP to some of its children, by name: they hang. Returns when they stand still."""
        pids = [int(self.read_state()["children"][child]) for child in children]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        while any(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in pids):
            time.sleep(0.01)

    def find_run_workers(self) -> list[psutil.Process]:
        """Processes that execute a run at this moment."""
        pids = [json.loads(row["value"])["pid"] for row in self.ask(RUN_WORKERS, "DAGSTER_PG_URL")]
        workers = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):  # its run has ended meanwhile
                worker = psutil.Process(pid)
                if worker.status() != psutil.STATUS_ZOMBIE:
                    workers.append(worker)
        return workers

    @contextmanager
    def connect(self, variable: str = "DATABASE_URL") -> Iterator[Engine]:
        """An engine on one of its two databases as the superuser, who takes none of the application's connections."""
        database = make_url(self.read_state()["environment"][variable]).database
        url = make_url(EmbeddedPostgres(self.home).superuser_url()).set(database=database)
        engine = create_engine(url, poolclass=NullPool)
        try:
            yield engine
        finally:
            engine.dispose()

    def ask(self, question: str, variable: str = "DATABASE_URL", **values: Any) -> list[Mapping[str, Any]]:
        """Rows of a query."""
        with self.connect(variable) as engine, engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(question), values).mappings()]

    def read_polls(self) -> list[Poll]:
        """The ledger."""
        return [
            Poll(
                run_id=row["run_id"],
                race_id=row["race_id"],
                polled_at=row["polled_at"],
                # ``polled_at`` is when the answer had arrived. The commit itself, some 2 ms, is not in it.
                committed_at=row["polled_at"] + timedelta(milliseconds=row["after_ms"]),
                status=row["status"],
                reason=f"{row['error_stage']}: {row['error_message']}" if row["error_stage"] else "",
            )
            for row in self.ask(POLLS)
        ]

    def read_races(self) -> list[LiveRace]:
        """Every stored race, with the status it has now."""
        return [LiveRace(row["race_id"], row["start_time"], row["status"]) for row in self.ask(RACES)]

    def read_batches(self) -> list[Batch]:
        """The runs of the live lane."""
        return [
            Batch(
                run_id=row["run_id"],
                status=row["status"],
                due_at=datetime.fromisoformat(row["due_at"]),
                created_at=row["create_timestamp"].replace(tzinfo=UTC),
                started_at=_read_epoch(row["start_time"]),
                ended_at=_read_epoch(row["end_time"]),
                race_ids=tuple(json.loads(row["run_body"])["run_config"]["ops"]["select_races"]["config"]["race_ids"]),
            )
            for row in self.ask(BATCHES, "DAGSTER_PG_URL")
        ]

    def read_cpu_s(self) -> dict[str, float]:
        """CPU-seconds so far by part; run workers count for the run server that forks them."""
        return {name: read_cpu_s(root) for name, root in self._find_parts().items()}

    def read_memory_mb(self) -> dict[tuple[str, int], float]:
        """Megabytes by part and pid: PostgreSQL without its cache, the run server without its run workers."""
        parts = self._find_parts() | {"raceday up": psutil.Process(self.process.pid)}
        taken = {}
        for name, root in parts.items():
            with suppress(psutil.NoSuchProcess):  # it was killed meanwhile
                mb = read_memory_mb(root, "Pss_Anon") if name == POSTGRES else root.memory_info().rss / 2**20
                taken[name, root.pid] = mb
        return taken

    def _find_parts(self) -> dict[str, psutil.Process]:
        found = {}
        for name, pid in {**self.read_state()["children"], POSTGRES: EmbeddedPostgres(self.home).status().pid}.items():
            with suppress(psutil.NoSuchProcess):  # it was killed meanwhile
                found[name] = psutil.Process(pid)
        return found


class DayWatch:
    """Samples a live day from outside while the block runs: the memory of each part, the application's connections."""

    def __init__(self, day: LiveDay) -> None:
        self.most_connections = 0
        self._memory: dict[tuple[str, int], list[MemorySample]] = defaultdict(list)
        self._day = day
        self._stop = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def describe_memory(self) -> dict[str, str]:
        """By part: megabytes at the start and at the end, and by how much its longest-lived process grows an hour."""
        told = {}
        for name in dict.fromkeys(name for name, _pid in self._memory):
            lives = [samples for (other, _pid), samples in self._memory.items() if other == name]
            growth = find_growth_mb_h(max(lives, key=len))
            told[name] = f"{lives[0][0].mb:.0f}, {lives[-1][-1].mb:.0f}"
            if growth is not None:
                told[name] += f", **grows by {growth:.0f} an hour**"
        return told

    def _watch(self) -> None:
        role = make_url(self._day.read_state()["environment"]["DATABASE_URL"]).username
        while not self._stop.is_set():
            try:
                with self._day.connect() as engine:
                    self._sample(engine.execution_options(isolation_level="AUTOCOMMIT"), role)
            except OperationalError:  # it is being restarted
                self._stop.wait(SAMPLE_EVERY_S)

    def _sample(self, engine: Engine, role: str | None) -> None:
        with engine.connect() as connection:
            for number in itertools.count():
                taken = int(connection.scalar(text(CONNECTIONS), {"role": role}) or 0)
                self.most_connections = max(self.most_connections, taken)
                if number % MEMORY_EVERY == 0:
                    for process, mb in self._day.read_memory_mb().items():
                        self._memory[process].append(MemorySample(time.monotonic(), mb))
                if self._stop.wait(SAMPLE_EVERY_S):
                    return


@contextmanager
def open_live_day(
    home: Path, *, latency_ms: int | None, categories: str = "T,H", **variables: str
) -> Iterator[LiveDay]:
    """``raceday up`` with its state in ``home``, until the block ends; what it prints goes to ``home``/up.log.

    Args:
        latency_ms: Added to every answer for a race; ``None`` where ``variables`` name an API.
        variables: More of its environment.
    """
    port = find_free_port()
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "up.log"
    slow = () if latency_ms is None else ("--feed-latency-ms", str(latency_ms))
    command = [sys.executable, "-m", "raceday_dagster.cli", "up", "--port", str(port), *slow]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**environment, "RACEDAY_HOME": str(home), "RACE_CATEGORIES": categories, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    day = LiveDay(process, home, port, log)
    try:
        wait_until_up(day)
        yield day
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until_up(day: LiveDay) -> None:
    """Returns when it says that it is up. Raises ``RuntimeError`` with its last lines when it does not."""
    give_up_at_s = time.monotonic() + READY_WITHIN_S
    while b"raceday is up" not in day.log.read_bytes():
        if day.process.poll() is not None or time.monotonic() > give_up_at_s:
            raise RuntimeError(f"raceday up did not come up: {day.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def find_processes(home: Path) -> dict[int, str]:
    """Living processes that have this home in their environment or command: the service's, its runs, its database."""
    found = {}
    for process in psutil.process_iter():
        try:
            command, environment = " ".join(process.cmdline()), process.environ()
            is_ours = environment.get("RACEDAY_HOME") == str(home) or f"{home}/" in command
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = command
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def _read_epoch(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
