"""The limits of a write: its deadline, its locks, and the connections of the pool and of the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from raceday_dagster.errors import DatabaseError, WriteError
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import is_listed
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.store_fixture import (
    make_finished,
    make_partitions,
    observe,
    open_store,
    watch_statements,
    write,
)
from raceday_dagster_tests.integration.store.test_faults import STATEMENTS, count_rows, failing
from raceday_dagster_tests.write_snapshots import START, make_snapshot


def test_a_lock_that_is_held_too_long_is_a_failure_worth_another_poll(store: RaceStore, database_url: str) -> None:
    with observe(database_url) as run:
        run("BEGIN")
        run("SELECT pg_advisory_xact_lock(hashtextextended('race-1', 0))")
        with pytest.raises(WriteError) as caught:
            write(store, make_snapshot(), deadline_s=0.3)
        run("ROLLBACK")
    assert caught.value.retryable
    assert count_rows(database_url) == 0


def test_a_write_without_time_left_does_not_begin(store: RaceStore, database_url: str) -> None:
    with pytest.raises(WriteError, match="were over") as caught:
        write(store, make_snapshot(), deadline_s=0.0)
    assert caught.value.retryable
    assert count_rows(database_url) == 0


def test_an_empty_pool_is_waited_for_and_then_a_typed_error(database_url: str) -> None:
    with open_store(database_url, pool_max=1, checkout_timeout_s=0.05) as store:
        make_partitions(store)
        with store.engine.connect():
            with pytest.raises(WriteError, match="no connection of the pool became free") as caught:
                write(store, make_snapshot())
            assert (store.gauge.in_use, store.gauge.waiting_peak, store.gauge.waiting) == (1, 1, 0)
        assert caught.value.retryable
        assert write(store, make_snapshot()).status == "written"


@contextmanager
def no_connection_left(store: RaceStore, database_url: str) -> Iterator[Callable[[], None]]:
    """The role has as many connections as it may, none of them the store's; a function that lets go of them."""
    store.engine.dispose()  # its warm connections, so that the next write has to ask the server
    greedy = build_engine(database_url, pool_max=20)
    with ExitStack() as taken:
        taken.callback(greedy.dispose)
        with pytest.raises(OperationalError, match="too many connections"):
            all(taken.enter_context(greedy.connect()) for _ in range(20))
        yield taken.close


def test_the_servers_own_ceiling_is_a_failure_worth_another_poll(database_url: str) -> None:
    with open_store(database_url, checkout_timeout_s=0.05) as store, no_connection_left(store, database_url):
        with pytest.raises(WriteError, match="too many connections") as caught:
            write(store, make_snapshot())
        assert caught.value.retryable
        with pytest.raises(DatabaseError, match="no connection left"):
            store.read(is_listed, START.date())


def test_the_servers_own_ceiling_is_waited_for(store: RaceStore, database_url: str) -> None:
    waits: list[float] = []
    with no_connection_left(store, database_url) as let_go_of_all:

        def let_go(seconds: float) -> None:
            waits.append(seconds)
            let_go_of_all()

        assert not RaceStore(store.engine, sleep=let_go).read(is_listed, START.date())
    assert set(waits) == {0.1}


def test_a_write_that_is_late_is_not_committed(store: RaceStore, database_url: str) -> None:
    now_s = [0.0]
    slow = RaceStore(store.engine, monotonic=lambda: now_s[0])
    make_partitions(slow)

    def pass_time(_connection: Any, statement: str) -> str:
        now_s[0] += 20.0
        return statement

    with failing(store, at=STATEMENTS, action=pass_time) as (statements, caught):
        write(slow, make_finished(), deadline_s=10)
    assert "were over" in caught.value.message
    assert (statements.fired, len(statements.sent), caught.value.retryable) == (1, STATEMENTS, True)
    assert count_rows(database_url) == 0


def test_a_statement_has_no_more_time_than_the_race(store: RaceStore) -> None:
    now_s = [0.0]
    slow = RaceStore(store.engine, monotonic=lambda: now_s[0])
    make_partitions(slow)

    def pass_time(_connection: Any, statement: str) -> str:
        now_s[0] += 2.0
        return statement

    with watch_statements(store.engine, at=1, times=3, action=pass_time) as statements:
        write(slow, make_finished(), deadline_s=10)
    limits = [re.findall(r"statement_timeout = (\d+)", statement) for statement in statements.sent[:5]]
    assert limits == [["5000"], [], [], ["4000"], ["4000"]]
