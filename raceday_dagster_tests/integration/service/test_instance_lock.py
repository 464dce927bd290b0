"""One service for each Dagster database, whatever happens to the connection that says so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import StaticPool, create_engine, text

from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.service import instance_lock
from raceday_dagster.service.instance_lock import LOCK_KEY, InstanceLock, read_holder
from raceday_dagster_tests.integration.postgres_fixture import ask
from raceday_dagster_tests.waiting import wait_for

SOON_S = 20.0
LOST = "lost the connection to Dagster's database; trying to reach it again"


@dataclass(frozen=True)
class Locks:
    """Locks of one database, closed at the end, and what they say."""

    url: str
    stack: ExitStack
    said: list[str] = field(default_factory=list)

    def open(self, name: str, url: str = "") -> InstanceLock:
        return self.stack.enter_context(closing(InstanceLock(url or self.url, self.said.append, name)))

    def take(self, name: str) -> InstanceLock:
        lock = self.open(name)
        lock.take()
        return lock

    def read_holder(self) -> str:
        holder = read_holder(self.url)
        return "" if holder is None else holder.name


@pytest.fixture
def locks(empty_database_url: str) -> Iterator[Locks]:
    with ExitStack() as stack:
        yield Locks(empty_database_url, stack)


def cut(server: EmbeddedPostgres, name: str) -> None:
    """End the backend that holds the lock under this name."""
    question = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{name}'"
    with server.connect() as connection:
        assert connection.exec_driver_sql(question).scalars().all() == [True]


def test_a_second_service_is_refused_with_the_name_of_the_first(locks: Locks) -> None:
    locks.take("raceday up, pid 1 on a")
    with pytest.raises(ServiceError, match=r"in use by raceday up, pid 1 on a, since 20.* UTC"):
        locks.take("raceday up, pid 2 on b")


def test_the_lock_is_free_again_once_the_first_has_let_go(locks: Locks) -> None:
    locks.take("first").close()
    assert locks.read_holder() == ""
    locks.take("second")
    assert locks.read_holder() == "second"


def test_a_lock_whose_connection_was_cut_is_taken_again(locks: Locks, embedded_postgres: EmbeddedPostgres) -> None:
    lock = locks.take("kept")
    assert lock.look()
    assert locks.said == []
    cut(embedded_postgres, "kept")
    assert wait_for(lambda: lock.look() and bool(locks.said), SOON_S)
    assert locks.said == [LOST, "Dagster's database is back"]
    assert locks.read_holder() == "kept"


def test_a_lock_that_somebody_else_took_meanwhile_ends_the_service(
    locks: Locks, embedded_postgres: EmbeddedPostgres
) -> None:
    lock = locks.take("robbed")
    cut(embedded_postgres, "robbed")
    locks.take("rival")
    with pytest.raises(ServiceError, match="could not be reached, and is now in use by rival"):
        wait_for(lambda: not lock.look(), SOON_S)
    assert locks.said == [LOST]


def test_a_lock_on_a_server_that_was_demoted_is_taken_elsewhere(locks: Locks) -> None:
    lock = locks.take("demoted")
    assert lock._connection is not None
    # This session is all of the server that the service sees; one that is opened anew leads to another.
    lock._connection.exec_driver_sql("SET default_transaction_read_only = on")
    lock._ask_at_s = 0.0
    assert wait_for(lambda: lock.look() and len(locks.said) == 2, SOON_S)
    assert locks.said == [
        "Dagster's database takes no writes any more, as a standby; trying to reach it again",
        "Dagster's database is back",
    ]
    assert lock._connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "off"


def test_a_server_that_stands_still_holds_up_neither_the_look_nor_the_end(
    locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.take("still")
    monkeypatch.setattr(instance_lock, "_TAKES_WRITES", text("SELECT pg_sleep(2) IS NOT NULL"))
    lock._ask_at_s = 0.0
    assert all(lock.look() for _ in range(100))
    assert lock._is_asking
    lock.close()
    assert lock._is_asking, "the end has waited for the answer"
    assert wait_for(lambda: not lock._is_asking, SOON_S)
    assert locks.said == []


def test_a_standby_alone_is_refused_in_one_line(locks: Locks) -> None:
    standby = locks.open("standby", f"{locks.url}&options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(StorageError, match="takes no writes: it is a standby"):
        standby.take()


def test_a_pooler_that_hands_one_session_round_is_refused_in_one_line(locks: Locks) -> None:
    lock = locks.open("pooled")
    lock._engine = create_engine(locks.url, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
    locks.stack.callback(lock._engine.dispose)
    with pytest.raises(ServiceError, match=r"DAGSTER_PG_URL, database .* is a pooler that shares sessions"):
        lock.take()
    wait_for(lambda: not locks.read_holder(), 10)  # a session that was closed is gone a moment later


def test_something_to_read_on_a_connection_that_answers_is_no_loss(
    locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.take("told")
    monkeypatch.setattr(instance_lock, "_has_news", lambda _connection: True)
    assert lock.look()
    wait_for(lambda: not lock._is_asking, SOON_S)
    monkeypatch.undo()
    assert lock.look()
    assert locks.said == []


@contextmanager
def serve_silence(greeting: bytes) -> Iterator[int]:
    """A port that takes connections, sends each a greeting once it has spoken, and then says nothing."""
    taken: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # it was closed
            taken.append(connection)
            connection.recv(8192)
            connection.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take)
        thread.start()
        yield listener.getsockname()[1]
        assert taken, "nobody came"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


def parameter(name: str, value: str) -> bytes:
    text = f"{name}\0{value}\0".encode()
    return b"S" + (len(text) + 4).to_bytes(4) + text


LOGGED_IN = (
    b"R" + (8).to_bytes(4) + (0).to_bytes(4)
    + parameter("server_version", "18.0") + parameter("client_encoding", "UTF8")
    + parameter("standard_conforming_strings", "on") + parameter("DateStyle", "ISO, MDY")
    + b"Z" + (5).to_bytes(4) + b"I"
)  # fmt: skip


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [(b"", "cannot be reached: .*timeout expired"), (LOGGED_IN, "takes connections and does not answer")],
    ids=["at once", "after the login"],
)
def test_a_database_that_takes_connections_and_never_answers_is_one_line(
    locks: Locks, monkeypatch: pytest.MonkeyPatch, greeting: bytes, reason: str
) -> None:
    monkeypatch.setattr(instance_lock, "REACH_WITHIN_S", 0.0)
    with serve_silence(greeting) as port:
        lock = locks.open("me", f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable")
        with pytest.raises(StorageError, match=reason):
            lock.take()
        assert not lock.look()


def test_the_key_is_one_that_postgresql_can_hold(empty_database_url: str) -> None:
    assert ask(empty_database_url, f"SELECT {LOCK_KEY}::bigint") == LOCK_KEY
