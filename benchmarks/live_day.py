"""A real ``raceday up`` on a sandbox of its own, and what its databases say afterwards of every poll.

Belongs here: starting it, ending it, reading the ledger and Dagster's runs. What is good or bad is in ``cadence``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from benchmarks.cadence import Batch, LiveRace, Poll
from benchmarks.measure import NOT_OURS, read_cpu_s
from raceday_dagster.sandbox.postgres import EmbeddedPostgres

READY_WITHIN_S = 120
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
        workers = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        return [worker for worker in workers if worker.status() != psutil.STATUS_ZOMBIE]

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
        pids = self.read_state()["children"]
        parts = {name: psutil.Process(int(pid)) for name, pid in pids.items()}
        postgres = EmbeddedPostgres(self.home).status().pid
        if postgres is not None:
            parts["postgres"] = psutil.Process(postgres)
        return {name: read_cpu_s(root) for name, root in parts.items()}


@contextmanager
def open_live_day(
    home: Path, *, latency_ms: int, categories: str = "T,H", more: Mapping[str, str] | None = None
) -> Iterator[LiveDay]:
    """``raceday up`` with its state in ``home`` and ``more`` of an environment, until the block ends; what it prints
    goes to ``home``/up.log."""
    port = _find_free_port()
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "up.log"
    command = (sys.executable, "-m", "raceday_dagster.cli", "up", "--port", str(port))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--feed-latency-ms", str(latency_ms)],
            env={**environment, "RACEDAY_HOME": str(home), "RACE_CATEGORIES": categories, **(more or {})},
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


def _read_epoch(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
