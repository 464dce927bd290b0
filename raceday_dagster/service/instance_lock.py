"""One ``raceday up`` for each Dagster database: a lock that PostgreSQL holds for as long as our connection lives.

A crash, a SIGKILL or a pulled cable lets go of it without anybody tidying up. It belongs to a session, so
``DAGSTER_PG_URL`` must reach PostgreSQL itself or a pooler in session mode.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.storage import (
    REACH_WITHIN_S,
    StorageError,
    build_storage_engine,
    normalise_url,
    open_connection,
)
from raceday_dagster.errors import ServiceError

LOCK_KEY = 0x7261_6365_6461_7901
LOOK_EVERY_S = 5.0
LOST_LOOK_EVERY_S = 1.0
_LONGEST_NAME = 63  # of an application, in PostgreSQL
_TRY = text("SELECT pg_try_advisory_lock(:key)")
_HOLDER = text("""
    SELECT coalesce(activity.application_name, ''), activity.backend_start
    FROM pg_locks AS held LEFT JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND held.classid = :high AND held.objid = :low
""")


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: ``raceday up, pid 12 on host``, and since when if this role may know."""

    name: str
    since: datetime | None

    def __str__(self) -> str:
        since = "" if self.since is None else f", since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.name or 'somebody'}{since}"


class InstanceLock:
    """The lock of one Dagster database.

    Args:
        dagster_pg_url: That database.
        name: Shown to whoever is refused; no two holders share one.
        look_every_s: How often the connection is tried.
    """

    def __init__(self, dagster_pg_url: str, name: str = "", *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._look_every_s = look_every_s
        self._name = name or describe_self()
        self._engine = _build_engine(dagster_pg_url, self._name)
        self._connection: Connection | None = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    def take(self) -> None:
        """Takes the lock.

        Raises:
            ServiceError: Somebody has it.
            StorageError: The database cannot be reached.
        """
        connection = open_connection(self._engine, REACH_WITHIN_S)
        if connection.scalar(_TRY, {"key": LOCK_KEY}):
            self._connection = connection
            return
        holder = _read_holder(connection)
        connection.close()
        raise ServiceError(f"Dagster's database is in use by {holder or 'somebody'}: stop that one first")

    def keep(self, on_lost: Callable[[str], None], say: Callable[[str], None]) -> None:
        """Watches over the lock in a thread: takes it again after a restart of the server.

        ``on_lost`` is called, once, with one line when somebody else has it by then.
        """
        self._keeper = threading.Thread(target=self._keep, args=(on_lost, say), name="instance-lock", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Lets go."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join(1)
        if self._connection is not None and (self._keeper is None or not self._keeper.is_alive()):
            self._connection.close()
        self._engine.dispose()

    def _keep(self, on_lost: Callable[[str], None], say: Callable[[str], None]) -> None:
        lost = False
        while not self._closing.wait(min(self._look_every_s, LOST_LOOK_EVERY_S) if lost else self._look_every_s):
            try:
                if self._connection is not None and not lost:
                    self._connection.scalar(text("SELECT 1"))
                    continue
                other = self._take_again()
            except (DBAPIError, StorageError):
                if not lost:
                    say("lost the connection to Dagster's database; trying to reach it again")
                lost = True
                self._drop()
                continue
            if other is not None:
                on_lost(f"Dagster's database was away, and is now in use by {other}")
                return
            if self._connection is not None:
                lost = False
                say("Dagster's database is back")

    def _take_again(self) -> Holder | None:
        connection = open_connection(self._engine, 0)
        if connection.scalar(_TRY, {"key": LOCK_KEY}):
            self._connection = connection
            return None
        holder = _read_holder(connection)
        connection.close()
        # Our own old connection, which the server has not given up yet, is no rival.
        return holder if holder is not None and holder.name != self._name else None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def read_holder(dagster_pg_url: str) -> Holder | None:
    """Who runs ``raceday up`` on this database, if anybody does. Raises ``StorageError``."""
    engine = _build_engine(dagster_pg_url, "raceday health")
    try:
        with open_connection(engine, 0) as connection:
            return _read_holder(connection)
    finally:
        engine.dispose()


def describe_self() -> str:
    """The name under which this process holds the lock."""
    end = f", pid {os.getpid()} on "
    return f"raceday up{end}{socket.gethostname()}"[:_LONGEST_NAME]


def _build_engine(url: str, name: str) -> Engine:
    return build_storage_engine(normalise_url(url).update_query_dict({"application_name": name}))


def _read_holder(connection: Connection) -> Holder | None:
    found = connection.execute(_HOLDER, {"high": LOCK_KEY >> 32, "low": LOCK_KEY & 0xFFFF_FFFF}).first()
    return None if found is None else Holder(name=found[0], since=found[1])
