"""One service for each Dagster database, whatever happens to the connection that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.service import instance_lock
from raceday_dagster.service.instance_lock import LOCK_KEY, InstanceLock, read_holder
from raceday_dagster_tests.integration.postgres_fixture import ask
from raceday_dagster_tests.waiting import wait_for

SOON_S = 20.0
LOST = "lost the connection to Dagster's database; trying to reach it again"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def said() -> list[str]:
    return []


def open_lock(stack: ExitStack, url: str, name: str, said: list[str]) -> InstanceLock:
    return stack.enter_context(closing(InstanceLock(url, said.append, name)))


def cut(server: EmbeddedPostgres, name: str) -> None:
    """End the backend that holds the lock under this name."""
    question = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{name}'"
    with server.connect() as connection:
        assert connection.exec_driver_sql(question).scalars().all() == [True]


def test_a_second_service_is_refused_with_the_name_of_the_first(
    stack: ExitStack, empty_database_url: str, said: list[str]
) -> None:
    open_lock(stack, empty_database_url, "raceday up, pid 1 on a", said).take()
    with pytest.raises(ServiceError, match=r"in use by raceday up, pid 1 on a, since 20.* UTC"):
        open_lock(stack, empty_database_url, "raceday up, pid 2 on b", said).take()


def test_the_lock_is_free_again_once_the_first_has_let_go(
    stack: ExitStack, empty_database_url: str, said: list[str]
) -> None:
    with closing(InstanceLock(empty_database_url, said.append, "first")) as first:
        first.take()
    assert read_holder(empty_database_url) is None
    open_lock(stack, empty_database_url, "second", said).take()
    holder = read_holder(empty_database_url)
    assert holder is not None
    assert holder.name == "second"


def test_a_lock_whose_connection_was_cut_is_taken_again(
    stack: ExitStack, embedded_postgres: EmbeddedPostgres, empty_database_url: str, said: list[str]
) -> None:
    lock = open_lock(stack, empty_database_url, "kept", said)
    lock.take()
    assert lock.look()
    assert said == []
    cut(embedded_postgres, "kept")
    assert wait_for(lambda: lock.look() and bool(said), SOON_S)
    assert said == [LOST, "Dagster's database is back"]
    holder = read_holder(empty_database_url)
    assert holder is not None
    assert holder.name == "kept"


def test_a_lock_that_somebody_else_took_meanwhile_ends_the_service(
    stack: ExitStack, embedded_postgres: EmbeddedPostgres, empty_database_url: str, said: list[str]
) -> None:
    lock = open_lock(stack, empty_database_url, "robbed", said)
    lock.take()
    cut(embedded_postgres, "robbed")
    open_lock(stack, empty_database_url, "rival", said).take()
    with pytest.raises(ServiceError, match="could not be reached, and is now in use by rival"):
        wait_for(lambda: not lock.look(), SOON_S)
    assert said == [LOST]


def test_something_to_read_on_a_connection_that_answers_is_no_loss(
    stack: ExitStack, empty_database_url: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = open_lock(stack, empty_database_url, "told", said)
    lock.take()
    monkeypatch.setattr(instance_lock, "_has_news", lambda _connection: True)
    assert lock.look()
    assert said == []


def test_the_key_is_one_that_postgresql_can_hold(empty_database_url: str) -> None:
    assert ask(empty_database_url, f"SELECT {LOCK_KEY}::bigint") == LOCK_KEY
