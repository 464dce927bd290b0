"""Whether the database is there and has the schema this code writes; if not, one line that says what to do."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from raceday_dagster.errors import DatabaseError
from raceday_dagster.store.sql_errors import UPGRADE, describe_place, naming_database_errors
from raceday_dagster.store.transaction import connect_patiently

REVISION = "0005"
"""The newest file of ``migrations/versions``; said here so that a look at the schema need not import alembic.
Revisions are numbers with leading zeros: a later one sorts after."""

OLDEST_SERVER = (14,)
"""The oldest version of PostgreSQL that is supported."""

VERSION_TABLE = "raceday_schema"
"""Where alembic keeps the revision. Dagster's storage uses alembic's default name, and may share the database."""


def check_schema(engine: Engine) -> None:
    """Proves that this code can write to the engine's database.

    Raises:
        DatabaseError: One line without a password: the database cannot be reached or refuses, or its schema is
            missing, older or newer than this code.
    """
    found, place = read_revision(engine), describe_place(engine)
    if found is None:
        raise DatabaseError(f"{place} has no raceday tables: {UPGRADE}")
    if found < REVISION:
        raise DatabaseError(f"the schema of {place} is at {found}, this code needs {REVISION}: {UPGRADE}")
    refuse_newer(engine, found)


def refuse_newer(engine: Engine, found: str) -> None:
    """Raises ``DatabaseError`` if a newer raceday has changed the schema: neither write to it nor upgrade it."""
    if found > REVISION:
        raise DatabaseError(
            f"the schema of {describe_place(engine)} is at {found}, newer than this code, which knows {REVISION}: "
            "install the newer raceday, or use another database"
        )


def read_revision(engine: Engine) -> str | None:
    """The revision the database says it has; ``None`` without any raceday schema. Raises ``DatabaseError``."""
    with naming_database_errors(engine), connect_patiently(engine) as connection:
        return read_revision_of(connection)


def read_revision_of(connection: Connection) -> str | None:
    """``read_revision`` in the caller's transaction; raises what SQLAlchemy raises, and ``DatabaseError`` for a server
    that is too old for this code."""
    version = connection.dialect.server_version_info or OLDEST_SERVER
    if version < OLDEST_SERVER:
        raise DatabaseError(
            f"{describe_place(connection.engine)} is PostgreSQL {version[0]}: {OLDEST_SERVER[0]} or newer is needed"
        )
    if connection.exec_driver_sql("SELECT to_regclass(%(table)s)", {"table": VERSION_TABLE}).scalar() is None:
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM raceday_schema").scalar()
    return revision
