"""Roles and databases inside a running embedded PostgreSQL, made as its superuser.

Tables are not made here: they belong to the migrations of ``write``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from raceday_dagster.errors import SandboxError

# Two starters at once: CREATE ROLE and CREATE DATABASE have no IF NOT EXISTS.
_ADVISORY_LOCK = 7_233_001


def build_url(role: str, database: str, socket_dir: Path) -> str:
    """The SQLAlchemy URL of a database behind a Unix socket; there is no password to show."""
    return f"postgresql+psycopg2://{quote(role, safe='')}@/{quote(database, safe='')}?host={quote(str(socket_dir))}"


@contextmanager
def connect(superuser_url: str) -> Iterator[Connection]:
    """One connection for administration, in autocommit, alone among its kind while it is open.

    Raises:
        SandboxError: The server is not there, or refuses a statement.
    """
    engine = create_engine(superuser_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
    except DBAPIError as error:
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        hint = " (is it running? raceday db start)" if error.statement is None else ""
        raise SandboxError(f"the embedded PostgreSQL answered: {lines[0]}{hint}") from error


def ensure_role(connection: Connection, role: str, connection_limit: int, *, synchronous_commit: bool = True) -> None:
    """Have a role that may log in, and hold it to a number of connections over all its databases.

    Without ``synchronous_commit`` a power cut may cost the role's last commits, though nothing is ever half there.
    """
    known = connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role})
    verb = "ALTER" if known else "CREATE"
    connection.exec_driver_sql(f"{verb} ROLE {_name(connection, role)} LOGIN CONNECTION LIMIT {int(connection_limit)}")
    mode = "on" if synchronous_commit else "off"
    connection.exec_driver_sql(f"ALTER ROLE {_name(connection, role)} SET synchronous_commit = {mode}")


def ensure_database(connection: Connection, name: str, owner: str, template: str | None) -> None:
    """Have a database, empty or copied from a template that nobody is connected to."""
    if connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
        return
    source = _name(connection, template or "template1")
    connection.exec_driver_sql(
        f"CREATE DATABASE {_name(connection, name)} OWNER {_name(connection, owner)} TEMPLATE {source}"
    )


def drop_database(connection: Connection, name: str) -> None:
    """Remove a database, if it is there, with its connections."""
    connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_name(connection, name)} WITH (FORCE)")


def _name(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
