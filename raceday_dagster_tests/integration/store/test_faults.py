"""What is left when a write fails: nothing, and a typed error that says whether to come again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from raceday_dagster.errors import WriteError
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store import killed_writer
from raceday_dagster_tests.integration.store.store_fixture import (
    MEASURED,
    ROW_TIMES,
    Statements,
    fail_with,
    make_finished,
    make_partitions,
    observe,
    open_store,
    read_tables,
    watch_statements,
    write,
)
from raceday_dagster_tests.write_snapshots import make_snapshot

STATEMENTS = 11
"""Of the first write of a race with results, whose meeting's status may follow."""


def count_rows(database_url: str) -> int:
    return sum(len(rows) for rows in read_tables(database_url).values())


def terminate(connection: Any, statement: str, database_url: str) -> str:
    with observe(database_url) as run:
        run(
            "SELECT pg_terminate_backend(%(pid)s, 5000)",
            {"pid": connection.connection.dbapi_connection.info.backend_pid},
        )
    return statement


@contextmanager
def failing(store: RaceStore, **fault: Any) -> Iterator[tuple[Statements, pytest.ExceptionInfo[WriteError]]]:
    """The block must end in a ``WriteError`` that the fault caused."""
    with watch_statements(store.engine, **fault) as statements, pytest.raises(WriteError) as caught:
        yield statements, caught


def test_a_finished_race_takes_eleven_statements(store: RaceStore) -> None:
    with watch_statements(store.engine) as statements:
        write(store, make_finished())
    assert len(statements.sent) == STATEMENTS


@pytest.mark.parametrize("number", range(1, STATEMENTS + 1))
def test_a_failure_at_any_statement_leaves_nothing(store: RaceStore, database_url: str, number: int) -> None:
    with failing(store, at=number, action=fail_with("23514")) as (statements, caught):
        write(store, make_finished())
    assert (statements.fired, caught.value.retryable, caught.value.race_id) == (1, False, "race-1")
    assert count_rows(database_url) == 0
    assert store.gauge.in_use == 0


@pytest.mark.parametrize("number", [1, STATEMENTS])
def test_an_interruption_leaves_nothing_and_no_connection(store: RaceStore, database_url: str, number: int) -> None:
    def interrupt(_connection: Any, _statement: str) -> str:
        raise KeyboardInterrupt

    with watch_statements(store.engine, at=number, action=interrupt) as statements, pytest.raises(KeyboardInterrupt):
        write(store, make_finished())
    assert statements.fired == 1
    assert count_rows(database_url) == 0
    assert store.gauge.in_use == 0


@pytest.mark.parametrize("number", range(1, STATEMENTS + 1))
def test_a_terminated_backend_is_forgotten_and_the_race_written_on_another(
    store: RaceStore, database_url: str, number: int
) -> None:
    with watch_statements(
        store.engine, at=number, action=lambda connection, statement: terminate(connection, statement, database_url)
    ) as statements:
        report = write(store, make_finished())
    assert statements.fired == 1
    assert report.row_counts.entrants == 8
    assert len(read_tables(database_url)["money_flow_history"]) == 8


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "57014", "57P01"])
def test_a_failure_that_passes_is_tried_once_more(store: RaceStore, sqlstate: str) -> None:
    with watch_statements(store.engine, at=5, action=fail_with(sqlstate)) as statements:
        assert write(store, make_finished()).row_counts.races == 1
    assert statements.fired == 1
    with failing(store, at=5, times=9, action=fail_with(sqlstate)) as (statements, caught):
        write(store, make_snapshot("race-2"))
    assert (statements.fired, caught.value.retryable) == (2, True)


def test_a_lost_answer_to_the_commit_is_written_once(store: RaceStore, database_url: str) -> None:
    lost: list[str] = []

    def lose_answer(connection: Any) -> None:
        if not lost:
            lost.append("COMMIT")
            connection.connection.dbapi_connection.commit()
            terminate(connection, "", database_url)
            cause = psycopg2.OperationalError("server closed the connection unexpectedly")
            raise OperationalError("COMMIT", {}, cause, connection_invalidated=True)

    event.listen(store.engine, "commit", lose_answer)
    try:
        report = write(store, make_finished())
    finally:
        event.remove(store.engine, "commit", lose_answer)
    assert (len(lost), report.status, report.row_counts.money_flow_history) == (1, "written", 8)
    tables = read_tables(database_url)
    assert len(tables["money_flow_history"]) == 8
    assert [(row["status"], row["money_flow_history_rows"]) for row in tables["race_polls"]] == [("success", 8)]


def test_write_race_raises_the_first_error_when_the_rollback_fails_too(store: RaceStore) -> None:
    broken: list[str] = []

    def break_rollback(dbapi_connection: Any) -> None:
        broken.append("ROLLBACK")
        raise OperationalError("ROLLBACK", {}, psycopg2.OperationalError("rollback failed"))

    before = store.engine.pool.checkedin()
    event.listen(store.engine, "rollback", break_rollback)
    try:
        with watch_statements(store.engine, at=3, action=fail_with("23514")), pytest.raises(WriteError, match="23514"):
            write(store, make_finished())
    finally:
        event.remove(store.engine, "rollback", break_rollback)
    assert (before, broken) == (1, ["ROLLBACK"])
    assert store.gauge.in_use == 0
    assert write(store, make_finished()).status == "written"


def test_a_bug_inside_a_write_is_not_called_a_fault_of_the_text(store: RaceStore) -> None:
    broken = make_snapshot().model_copy(update={"entrants": (_Broken(),)})
    with pytest.raises(ValueError, match="a bug"):
        write(store, broken)
    assert store.gauge.in_use == 0


class _Broken:
    entrant_id = "race-1-01"

    def model_dump(self, **_: Any) -> None:
        raise ValueError("a bug")


@pytest.mark.parametrize("text", ["a\x00b", "half \ud800 pair"])
def test_text_that_postgresql_cannot_hold_is_a_typed_error_and_nothing_is_lost(
    store: RaceStore, database_url: str, text: str
) -> None:
    for snapshot in (make_snapshot(meeting={"meeting_name": text}), make_snapshot(f"race-{text}")):
        with pytest.raises(WriteError) as caught:
            write(store, snapshot)
        assert not caught.value.retryable
        assert "\n" not in caught.value.message
    assert count_rows(database_url) == 0


@pytest.mark.parametrize(
    ("column", "value"), [("total_prize_money", Decimal("1e20")), ("type", "X"), ("distance", 10**12)]
)
def test_a_value_no_column_takes_is_a_typed_error(store: RaceStore, column: str, value: Any) -> None:
    snapshot = make_snapshot()
    broken = snapshot.race.model_copy(update={column: value})
    with pytest.raises(WriteError) as caught:
        write(store, snapshot.model_copy(update={"race": broken}))
    assert not caught.value.retryable


@pytest.mark.parametrize("name", killed_writer.WRITES)
def test_a_process_killed_at_any_statement_leaves_nothing_and_the_next_one_everything(
    database_url: str, name: str
) -> None:
    with open_store(database_url) as store:
        make_partitions(store)
        if name != "first":
            write(store, make_snapshot(), run_id="before")
        with watch_statements(store.engine) as statements:
            killed_writer.WRITES[name](store)
        undisturbed = read_tables(database_url, without=ROW_TIMES | MEASURED)
    with open_store(database_url) as store:
        if name != "first":
            write(store, make_snapshot(), run_id="before")
        ended = subprocess.run(
            [sys.executable, "-m", killed_writer.__name__, database_url, name, str(len(statements.sent))],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    killed = json.loads(ended.stdout)
    assert killed == [{"signal": 9, "has_changed": False}] * (len(statements.sent) + 1)
    assert len(killed) > 2
    assert read_tables(database_url, without=ROW_TIMES | MEASURED) == undisturbed


def test_a_server_that_takes_no_writes_any_more_is_left_for_a_new_connection(
    store: RaceStore, database_url: str
) -> None:
    with store.engine.connect() as one, store.engine.connect() as two:
        for connection in (one, two):
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()
    assert store.engine.pool.checkedin() == 2
    with watch_statements(store.engine) as statements:
        assert write(store, make_snapshot()).status == "written"
    assert sum("pg_advisory_xact_lock" in statement for statement in statements.sent) == 2
    with store.engine.connect() as one, store.engine.connect() as two:
        for connection in (one, two):
            assert connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "off"
