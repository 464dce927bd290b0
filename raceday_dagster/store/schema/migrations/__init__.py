"""Brings a database to the schema of this code: alembic, driven from here and needing no ``alembic.ini``.

A migration is a record of what was done and is never edited afterwards; a new one is a new file in ``versions``,
written by hand. Together they are the description of the schema.
"""

from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from raceday_dagster.errors import DatabaseError
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import parse_database_url
from raceday_dagster.store.engine import choose_connect_args
from raceday_dagster.store.schema.check import REVISION, read_revision_of, refuse_newer
from raceday_dagster.store.schema.partitions import choose_days, create_partitions
from raceday_dagster.store.sql_errors import describe_place, naming_database_errors
from raceday_dagster.store.transaction import Transaction

PARTITIONS_DEADLINE_S = 30.0
LOCK_TIMEOUT_MS = 5_000
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


def upgrade(database_url: str, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> UpgradeReport:
    """Runs the migrations that are missing and makes the partitions of today and the next three days.

    One transaction: an upgrade that fails leaves nothing. Two at once are safe. A table that somebody else holds is
    waited for ``lock_timeout_ms``.

    Raises:
        DatabaseError: One line: the database cannot be reached or refuses, or its schema is newer than this code.
    """
    url = parse_database_url(database_url)
    engine = create_engine(url, poolclass=NullPool, connect_args=choose_connect_args(url))
    with naming_database_errors(engine), _ALEMBIC, engine.begin() as connection:
        return _upgrade(connection, lock_timeout_ms)


def _upgrade(connection: Connection, lock_timeout_ms: int) -> UpgradeReport:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(key)s)", {"key": UPGRADE_LOCK_KEY})
    # Another upgrade is waited for; a race write or a forgotten session that holds a table is not.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
    before = read_revision_of(connection)
    if before is not None:
        refuse_newer(connection.engine, before)
    try:
        command.upgrade(build_config(connection), "head")
    except CommandError as error:
        raise DatabaseError(f"{describe_place(connection.engine)} cannot be upgraded: {error}") from error
    transaction = Transaction(connection, ends_s=time.monotonic() + PARTITIONS_DEADLINE_S, monotonic=time.monotonic)
    made = create_partitions(transaction, choose_days(datetime.now(UTC))).made
    return UpgradeReport(from_revision=before, to_revision=REVISION, partitions=made)


def build_config(connection: Connection) -> Config:
    """What alembic needs to know, with the connection that it works on."""
    config = Config(stdout=io.StringIO())
    # Alembic interpolates its options: a percent sign in the path must be doubled.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
