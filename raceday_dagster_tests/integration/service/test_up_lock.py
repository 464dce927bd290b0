"""One service for each Dagster database, whatever happens to the connection that says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from queue import SimpleQueue

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.service.instance_lock import LOCK_KEY, InstanceLock, read_holder
from raceday_dagster_tests.integration.postgres_fixture import ask

PATIENCE_S = 20
OFTEN_S = 0.02


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_lock(stack: ExitStack, url: str, name: str) -> InstanceLock:
    return stack.enter_context(closing(InstanceLock(url, name, look_every_s=OFTEN_S)))


def cut(server: EmbeddedPostgres, name: str) -> None:
    """End the backend that holds the lock under this name."""
    question = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{name}'"
    with server.connect() as connection:
        assert connection.exec_driver_sql(question).scalars().all() == [True]


def test_a_second_one_is_refused_with_the_name_of_the_first(stack: ExitStack, empty_database_url: str) -> None:
    open_lock(stack, empty_database_url, "raceday up, pid 1 on a").take()
    with pytest.raises(ServiceError, match=r"in use by raceday up, pid 1 on a, since 20.* UTC"):
        open_lock(stack, empty_database_url, "raceday up, pid 2 on b").take()


def test_it_is_free_again_once_the_first_has_let_go(stack: ExitStack, empty_database_url: str) -> None:
    first = InstanceLock(empty_database_url, "first")
    first.take()
    first.close()
    assert read_holder(empty_database_url) is None
    open_lock(stack, empty_database_url, "second").take()
    holder = read_holder(empty_database_url)
    assert holder is not None
    assert holder.name == "second"


def test_a_lock_whose_connection_was_cut_is_taken_again(
    stack: ExitStack, embedded_postgres: EmbeddedPostgres, empty_database_url: str
) -> None:
    said: SimpleQueue[str] = SimpleQueue()
    lost: list[str] = []
    lock = open_lock(stack, empty_database_url, "kept")
    lock.take()
    lock.keep(lost.append, said.put)
    cut(embedded_postgres, "kept")
    assert said.get(timeout=PATIENCE_S).startswith("lost the connection")
    assert said.get(timeout=PATIENCE_S) == "Dagster's database is back"
    holder = read_holder(empty_database_url)
    assert holder is not None
    assert holder.name == "kept"
    assert lost == []


def test_a_lock_that_somebody_else_took_meanwhile_is_lost(
    stack: ExitStack, embedded_postgres: EmbeddedPostgres, empty_database_url: str
) -> None:
    lost: SimpleQueue[str] = SimpleQueue()
    taken = threading.Event()
    rival = open_lock(stack, empty_database_url, "rival")

    def take_before_it_is_back(_line: str) -> None:
        # Between the loss and the first try to reach the server again.
        rival.take()
        taken.set()

    lock = open_lock(stack, empty_database_url, "robbed")
    lock.take()
    lock.keep(lost.put, take_before_it_is_back)
    cut(embedded_postgres, "robbed")
    assert "now in use by rival" in lost.get(timeout=PATIENCE_S)
    assert taken.is_set()


def test_the_key_is_one_that_postgresql_can_hold(empty_database_url: str) -> None:
    assert ask(empty_database_url, f"SELECT {LOCK_KEY}::bigint") == LOCK_KEY
