"""Brings a database to the schema of this code: alembic, driven from here and needing no ``alembic.ini``.

A migration is a record of what was done and is never edited afterwards; a new one is a new file in ``versions``,
written by hand. A test proves that all of them together lead to ``write.tables``.
"""

from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from raceday_dagster.errors import DatabaseError
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import normalise_database_url
from raceday_dagster.write.engine import APPLICATION_NAME, CONNECT_TIMEOUT_S
from raceday_dagster.write.failures import build_database_error, describe_place
from raceday_dagster.write.partitions import choose_days, create_partitions
from raceday_dagster.write.transactions import Transaction

__all__ = ["UpgradeReport", "head_revision", "known_revisions", "read_revision", "upgrade"]

PARTITIONS_DEADLINE_S = 30.0
UPGRADE_LOCK_KEY = 0x7261_6365_6D69_6772
"""One upgrade at a time, whichever process it is in: the second finds nothing left to do."""

_ALEMBIC = threading.Lock()
"""Alembic keeps its context in a module: within one process, one at a time, whichever the database."""


class UpgradeReport(Record):
    """Revisions before and after; ``from_revision`` is ``None`` for a database that had no raceday schema."""

    from_revision: str | None
    to_revision: str
    partitions: tuple[str, ...] = ()
    """Names of the history partitions made on the way."""

    @property
    def changed(self) -> bool:
        """Whether a migration ran."""
        return self.from_revision != self.to_revision


def upgrade(database_url: str) -> UpgradeReport:
    """Runs the migrations that are missing and makes the partitions of today and the next three days.

    One transaction: an upgrade that fails leaves nothing. Two at once are safe.

    Raises:
        DatabaseError: One line: the database cannot be reached or refuses, or its schema is newer than this code.
    """
    engine = create_engine(
        normalise_database_url(database_url),
        poolclass=NullPool,
        connect_args={"application_name": APPLICATION_NAME, "connect_timeout": CONNECT_TIMEOUT_S},
    )
    try:
        with _ALEMBIC, engine.begin() as connection:
            return _upgrade(connection)
    except SQLAlchemyError as error:
        raise build_database_error(engine, error) from error


def head_revision() -> str:
    """The revision this code writes."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def known_revisions() -> frozenset[str]:
    """Every revision this code can start from."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


def read_revision(engine: Engine) -> str | None:
    """The revision the database says it has; ``None`` without any raceday schema.

    Raises:
        DatabaseError: One line: the database cannot be reached or refuses.
    """
    try:
        with engine.connect() as connection:
            return _read_revision(connection)
    except SQLAlchemyError as error:
        raise build_database_error(engine, error) from error


def _read_revision(connection: Connection) -> str | None:
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def _upgrade(connection: Connection) -> UpgradeReport:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(key)s)", {"key": UPGRADE_LOCK_KEY})
    before = _read_revision(connection)
    if before is not None and before not in known_revisions():
        raise DatabaseError(
            f"the schema of {describe_place(connection.engine)} is at {before}, newer than this code, which knows "
            f"{head_revision()}: install the newer raceday, or use another database"
        )
    try:
        command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise DatabaseError(f"{describe_place(connection.engine)} cannot be upgraded: {error}") from error
    transaction = Transaction(connection, ends_s=time.monotonic() + PARTITIONS_DEADLINE_S, monotonic=time.monotonic)
    made = create_partitions(transaction, choose_days(datetime.now(UTC)))
    return UpgradeReport(from_revision=before, to_revision=head_revision(), partitions=tuple(made))


def _config(connection: Connection | None = None) -> Config:
    config = Config(stdout=io.StringIO())
    # Alembic interpolates its options: a percent sign in the path must be doubled.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
