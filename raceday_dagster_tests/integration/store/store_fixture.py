"""A store on a test's database, faults that the server itself raises, and what the tables hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool

from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.sandbox.postgres import build_libpq_url
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import Poll, RaceStore, WriteReport
from raceday_dagster_tests.write_snapshots import START, make_results, make_snapshot

ROW_TIMES = {"created_at", "updated_at"}
TABLES = {
    "batches": "run_id",
    "image_descriptions": "source",
    "race_polls": "run_id, race_id",
    "racing_days": "racing_day",
    "money_flow_history": "racing_day, race_id, entrant_id, polling_timestamp",
    "odds_history": "racing_day, race_id, entrant_id, type, event_timestamp",
    "pool_history": "racing_day, race_id, polling_timestamp",
    "market_signals": "race_id, polling_timestamp, entrant_id, kind",
    "race_results": "race_id",
    "race_pools": "race_id",
    "entrants": "entrant_id",
    "races": "race_id",
    "meetings": "meeting_id",
}
"""With their keys; what refers to another table comes before it."""
MEASURED = {"fetch_ms", "transform_ms", "write_ms", "total_ms"}


@contextmanager
def open_store(database_url: str, *, pool_max: int = 3, checkout_timeout_s: float = 2.0) -> Iterator[RaceStore]:
    """A store on an emptied database; its clock stands still on the tests' racing day and it never sleeps. At the end
    no connection may be left checked out."""
    with observe(database_url) as run:
        run("; ".join(f"DELETE FROM {table}" for table in TABLES))
    engine = build_engine(database_url, pool_max=pool_max, checkout_timeout_s=checkout_timeout_s)
    store = RaceStore(engine, utc_now=lambda: datetime(2025, 7, 17, 1, tzinfo=UTC), sleep=lambda _seconds: None)
    try:
        yield store
        assert store.gauge.in_use == 0
    finally:
        engine.dispose()


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    """A store on the module's database, emptied, with the partitions of the tests' racing day."""
    with open_store(database_url) as store:
        make_partitions(store)
        yield store


@contextmanager
def observe(database_url: str) -> Iterator[Callable[..., list[Any]]]:
    """A function that runs SQL on a connection of its own, each call committed, and returns the rows."""
    engine = create_engine(database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:

        def run(sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
            result = connection.exec_driver_sql(sql, dict(values or {}))
            return list(result) if result.returns_rows else []

        yield run


@contextmanager
def hear(database_url: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A function that returns what was said on the channel since the block began."""
    connection = psycopg2.connect(build_libpq_url(database_url))
    try:
        connection.autocommit = True
        connection.cursor().execute("LISTEN raceday")

        def read_heard() -> list[dict[str, Any]]:
            connection.cursor().execute("SELECT")  # what was committed before it comes with its answer
            return [json.loads(notice.payload) for notice in connection.notifies]

        yield read_heard
    finally:
        connection.close()


def read_tables(database_url: str, *, without: set[str] = ROW_TIMES) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in the order of the keys."""
    with observe(database_url) as run:
        return {
            table: [
                {name: value for name, value in row._mapping.items() if name not in without}
                for row in run(f"SELECT * FROM {table} ORDER BY {key}")
            ]
            for table, key in TABLES.items()
        }


def write(store: RaceStore, snapshot: Any, run_id: str = "run", **options: Any) -> WriteReport:
    """Writes a snapshot as the only poll of its run."""
    return store.write_race(
        snapshot, Poll(run_id=run_id, fetch_ms=300, transform_ms=20, elapsed_before_ms=330), **options
    )


def make_finished() -> RaceSnapshot:
    """A race that is over, with its results."""
    return make_snapshot(race={"status": "final"}, results=make_results("final"))


def make_partitions(store: RaceStore) -> None:
    """Those of the tests' racing day, so that the next write is one transaction."""
    store.ensure_partitions([START.date()])


@dataclass
class Statements:
    """The statements an engine sent, and what to do instead of, or before, some of them."""

    sent: list[str] = field(default_factory=list)
    fired: int = 0
    at: int = 0
    """Number of the statement to meet with ``action``; 0 for none."""
    times: int = 1
    action: Callable[[Any, str], str] | None = None

    def hook(self, connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> tuple[str, Any]:
        self.sent.append(statement)
        if self.action is not None and self.fired < self.times and len(self.sent) >= self.at > 0:
            self.fired += 1
            replaced = self.action(connection, statement)
            return replaced, values if replaced == statement else {}
        return statement, values


@contextmanager
def watch_statements(engine: Engine, **fault: Any) -> Iterator[Statements]:
    """Counts the statements of an engine while the block runs, with an optional fault."""
    statements = Statements(**fault)
    event.listen(engine, "before_cursor_execute", statements.hook, retval=True)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", statements.hook)


def fail_with(sqlstate: str) -> Callable[[Any, str], str]:
    """An action: the server fails the statement with this SQLSTATE."""
    return lambda _connection, _statement: (
        f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{sqlstate}'; END $$"
    )
