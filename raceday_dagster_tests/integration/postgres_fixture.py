"""Databases for tests: one embedded server a session, one database a module, thrown away at the end.

Sessions that run at the same time share nothing: each has a server, a folder and a socket of its own. A worker of
pytest-xdist is such a session: a server costs half a second, and sharing one would need a lock and a count of users.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.waiting import wait_for

APPLICATION_ROLE = "raceday"
CONNECTION_LIMIT = 10

_numbers = itertools.count(1)


@contextmanager
def open_server_folder() -> Iterator[Path]:
    """A short temp folder that the server's account can enter, also when root runs the tests; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="rd-")).resolve()
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def run_server(home: Path, *, fsync: bool = False) -> Iterator[EmbeddedPostgres]:
    """A started server, stopped and its data removed at the end; fast, and forgetful when killed, unless ``fsync``."""
    server = EmbeddedPostgres(home, fsync=fsync)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        # Beside the home when the temp directory is closed to the server's account.
        shutil.rmtree(server.status().data_dir.parent, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home for a server of the test's own."""
    with open_server_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Path]:
    """A home that the tests of a module share: a server is made there once."""
    with open_server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """The session's server; never the one of a demo or a developer."""
    with open_server_folder() as home, run_server(home) as server:
        yield server


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that the tests of a module may kill."""
    with open_server_folder() as home, run_server(home, fsync=True) as server:
        yield server


@pytest.fixture
def server(own_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """That server, running."""
    own_server.start()
    return own_server


@pytest.fixture(scope="session")
def schema_template(embedded_postgres: EmbeddedPostgres) -> str:
    """The name of a database with the newest schema, to copy from."""
    from raceday_dagster.store.schema.migrations import upgrade

    name = "schema_template"
    upgrade(embedded_postgres.create_database(name, owner=APPLICATION_ROLE, connection_limit=CONNECTION_LIMIT))
    return name


@pytest.fixture(scope="module")
def database_url(embedded_postgres: EmbeddedPostgres, schema_template: str) -> Iterator[str]:
    """A fresh database of the module with the newest schema, owned by the limited application role."""
    with make_database(embedded_postgres, template=schema_template) as url:
        yield url


@pytest.fixture(scope="module")
def empty_database_url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database of the module without any table, owned by the limited application role."""
    with make_database(embedded_postgres) as url:
        yield url


@contextmanager
def make_database(server: EmbeddedPostgres, *, template: str | None = None, busy_wait_s: float = 5) -> Iterator[str]:
    """A database of its own; at the end no connection to it may still be in a transaction."""
    name = f"tests_{next(_numbers)}"
    url = server.create_database(name, owner=APPLICATION_ROLE, connection_limit=CONNECTION_LIMIT, template=template)
    try:
        yield url
        with server.connect() as connection:
            # A client that was killed is noticed by its backend a moment later.
            wait_for(
                lambda: not read_busy_backends(connection, name),
                busy_wait_s,
                lambda: f"left checked out: {read_busy_backends(connection, name)}",
            )
    finally:
        server.drop_database(name)


def read_busy_backends(connection: Connection, database: str) -> list[str]:
    """The last statements of the client backends of a database that are not idle: connections left checked out."""
    rows = connection.execute(
        text(
            "SELECT state || ': ' || query FROM pg_stat_activity"
            " WHERE datname = :database AND backend_type = 'client backend' AND state <> 'idle'"
        ),
        {"database": database},
    )
    return list(rows.scalars())


def ask(url: str, question: str) -> object:
    """The one value that a query answers, over a connection of its own."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.scalar(text(question))


def order(url: str, statement: str) -> None:
    """Carry out and commit one statement, over a connection of its own."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(statement))


def read_pid(server: EmbeddedPostgres) -> int:
    """The process of a server that runs."""
    pid = server.status().pid
    assert pid is not None
    return pid
