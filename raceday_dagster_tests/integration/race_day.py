"""A whole racing day for a test module: simulator, database, Dagster instance, and the environment that joins them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from raceday_dagster.definitions import defs
from raceday_dagster.racing.race_key import build_race_key, read_id_start
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import IDENTITY
from raceday_dagster.simulator.running import RunningSimulator, running_simulator

RACING_DAY = date(2026, 9, 26)
FIRST_START = datetime(2026, 9, 25, 23, 0, tzinfo=UTC)
PASSWORD_PARTS = ("Tr0ub", "dor3", "Zx9k", "Qk4m", "Vw7p", "jj2t")
"""What a wrong reading of the password in a URL may take for a host, a port, a database or an option."""
PASSWORD = "{}@{}#{}/{}?{}[{}".format(*PASSWORD_PARTS)
HISTORY = ("money_flow_history", "odds_history")
TABLES = ("meetings", "races", "entrants", "race_pools", "race_results", *HISTORY)


def resolve_job(name: str) -> dg.JobDefinition:
    return defs.resolve_job_def(name)


def process_races_job() -> dg.JobDefinition:
    return resolve_job("process_races")


def run_job(
    instance: dg.DagsterInstance,
    job: str,
    *,
    max_concurrent: int | None = None,
    tags: Mapping[str, str] | None = None,
    **configs: Mapping[str, Any],
) -> dg.JobExecutionResult:
    """One run of a job of ours as a run worker executes it, with configs of ops."""
    run_config: dict[str, Any] = {"ops": {op: {"config": dict(config)} for op, config in configs.items()}}
    if max_concurrent is not None:
        run_config["execution"] = {"config": {"max_concurrent": max_concurrent}}
    rebuilt = dg.build_reconstructable_job(__name__, "resolve_job", (job,))
    return dg.execute_job(rebuilt, instance=instance, run_config=run_config, tags=dict(tags or {}))


@dataclass(frozen=True)
class RaceDay:
    """What a test needs of the day."""

    simulator: RunningSimulator
    instance: dg.DagsterInstance
    engine: Engine
    race_ids: list[str] = field(default_factory=list)
    """Races that start within the hour after the clock of the simulator, the earliest first."""

    def poll(
        self, race_ids: Sequence[str], *, max_concurrent: int = 5, fail_run_when: str = "never"
    ) -> dg.JobExecutionResult:
        """One run of ``process_races``."""
        return self.run(
            "process_races",
            max_concurrent=max_concurrent,
            select_races={"race_ids": list(race_ids)},
            summarise_batch={"fail_run_when": fail_run_when},
        )

    def run(self, job: str, **given: Any) -> dg.JobExecutionResult:
        """One run of a job, as ``run_job`` takes it."""
        return run_job(self.instance, job, **given)

    def ask(self, question: str, **values: Any) -> list[Any]:
        """Rows of a query, or of a statement that is committed, over a connection of its own."""
        with self.engine.begin() as connection:
            result = connection.execute(text(question), values)
            return list(result.mappings()) if result.returns_rows else []

    def remove_partition(self, race_id: str) -> str:
        """Removes a race from the partitions; returns the name it had there."""
        keys = self.instance.get_dynamic_partitions("races")
        (key,) = (key for key in keys if read_id_start(key) == read_id_start(race_id))
        self.instance.delete_dynamic_partition("races", key)
        return key

    def name_race(self, race_id: str) -> str:
        """The readable name of a stored race."""
        (row,) = self.ask(
            "SELECT racing_day, meeting_name, race_number, race_id FROM race_card WHERE race_id = :id", id=race_id
        )
        return build_race_key(**row)

    def read_polls(self, run_id: str) -> dict[str, Mapping[str, Any]]:
        """The ledger of a run by race."""
        return {row["race_id"]: row for row in self.ask("SELECT * FROM race_polls WHERE run_id = :run", run=run_id)}

    def read_batch(self, run_id: str) -> Mapping[str, Any]:
        """The batch of a run."""
        (row,) = self.ask("SELECT * FROM batches WHERE run_id = :run", run=run_id)
        return row

    def read_contents(self) -> dict[str, list[str]]:
        """Every row of every data table, without the bookkeeping of the polls."""
        dropped = "- 'last_poll_time' - 'api_generated_time'"
        return {
            table: [
                row["whole"]
                for row in self.ask(f"SELECT (to_jsonb(t) {dropped})::text AS whole FROM {table} t ORDER BY 1")
            ]
            for table in TABLES
        }


@contextmanager
def open_race_day(database_url: str, *, speed: float = 1.0, **environment: str) -> Iterator[RaceDay]:
    """A simulated day two hours in, whose last races start after New Zealand's midnight, on a database with the
    schema; the environment names both, and what is given besides. Dagster keeps its runs in memory."""
    now = FIRST_START + timedelta(hours=2)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        running_simulator(seed=5, racing_day=RACING_DAY, now=now, speed=speed) as simulator,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        # Trusted on its socket, the server ignores the password; whoever prints the URL does not.
        with_password = database_url.replace("raceday@", f"raceday:{quote(PASSWORD, safe='')}@", 1)
        assert with_password != database_url
        places = {"DATABASE_URL": with_password, "NZTAB_API_URL": simulator.api_url}
        patience = {"RACE_DEADLINE_S": "60"}  # none of these tests is about it, and the machine may be busy
        for name, value in {**IDENTITY, **places, **patience, **environment}.items():
            monkeypatch.setenv(name, value)
        engine = create_engine(database_url, poolclass=NullPool)
        yield RaceDay(simulator, instance, engine, find_open_races(simulator))


def find_open_races(simulator: RunningSimulator) -> list[str]:
    """Open New Zealand and Australian races after the simulator's clock, by start, straight from its list."""
    now = simulator.now()
    return [race_id for start, race_id in list_races(simulator, "Open") if datetime.fromisoformat(start) > now]


def list_races(simulator: RunningSimulator, status: str) -> list[tuple[str, str]]:
    """Starts and ids of the New Zealand and Australian races that have a status, by start."""
    import urllib.request

    query = f"/racing/meetings?date_from={RACING_DAY}&date_to={RACING_DAY}&limit=200"
    with urllib.request.urlopen(simulator.api_url + query) as answer:
        meetings = json.load(answer)["data"]["meetings"]
    races = [
        (race["start_time"], race["id"])
        for meeting in meetings
        if meeting["country"] in {"NZ", "AUS"} and meeting["category"] in {"T", "H"}
        for race in meeting["races"]
        if race["status"] == status
    ]
    return sorted(races)


class ConnectionWatch:
    """Samples how many connections the application has by its role, from outside."""

    def __init__(self, server: EmbeddedPostgres, role: str = "raceday") -> None:
        self.samples: list[int] = []
        self._role = role
        self._engine = create_engine(server.superuser_url(), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._stop = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> ConnectionWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        question = text("SELECT count(*) FROM pg_stat_activity WHERE usename = :role AND application_name = 'raceday'")
        with self._engine.connect() as connection:
            while not self._stop.wait(0.005):
                self.samples.append(int(connection.scalar(question, {"role": self._role}) or 0))


def read_log(captured: str) -> list[dict[str, Any]]:
    """Our own lines of what a run printed on standard error."""
    return [json.loads(line) for line in captured.splitlines() if line.startswith('{"event"')]
