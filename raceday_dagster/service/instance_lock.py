"""One ``raceday up`` for each Dagster database: a lock that PostgreSQL holds for as long as our connection lives.

A crash, a SIGKILL or a pulled cable lets go of it without anybody tidying up. It belongs to a session, so
``DAGSTER_PG_URL`` must reach PostgreSQL itself or a pooler in session mode.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.storage import (
    REACH_WITHIN_S,
    StorageError,
    build_storage_engine,
    describe_place,
    normalise_url,
    open_connection,
)
from raceday_dagster.errors import ServiceError
from raceday_dagster.service.dagster_instance import Answer, ask_within

LOCK_KEY = 0x7261_6365_6461_7901
TRY_EVERY_S = 1.0
ASK_EVERY_S = 10.0
LOST = "lost the connection to Dagster's database"
DEMOTED = "Dagster's database takes no writes any more, as a standby"
CONNECT_WITHIN_S = 3
ANSWER_WITHIN_S = 2.0
"""The supervisor waits for both."""
_LONGEST_NAME = 63  # of an application, in PostgreSQL
_TRY = text("SELECT pg_try_advisory_lock(:key)")
_SESSION = text("SELECT pg_backend_pid()")
_TAKES_WRITES = text("SELECT current_setting('transaction_read_only') = 'off'")
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
    """The lock of one Dagster database; ``name`` is shown to whoever is refused, and no two holders share one."""

    def __init__(self, dagster_pg_url: str, say: Callable[[str], None], name: str = "") -> None:
        self._name = name or describe_self()
        self._url = dagster_pg_url
        self._engine = _build_engine(dagster_pg_url, self._name)
        self._say = say
        self._connection: Connection | None = None
        self._try_at_s = 0.0
        self._ask_at_s = 0.0
        self._is_asking = False
        self._trouble = ""
        """What the thread found."""

    def take(self) -> None:
        """Takes the lock.

        Raises:
            ServiceError: Somebody has it, or it would be lost at once.
            StorageError: The database cannot be reached.
        """
        if self._ask(self._shares_sessions, REACH_WITHIN_S):
            raise ServiceError(
                f"DAGSTER_PG_URL, {describe_place(self._engine)}, is a pooler that shares sessions, where the lock "
                "of the service is lost: give its address in session mode (PgBouncer: pool_mode = session), or "
                "that of PostgreSQL itself"
            )
        self._engine.dispose()  # one is enough from here on
        holder = self._try(REACH_WITHIN_S)
        if self._connection is None:
            raise ServiceError(f"Dagster's database is in use by {holder or 'somebody'}: stop that one first")

    def look(self) -> bool:
        """Whether the lock is held; one that was lost is taken again, as after a restart of the server.

        To be called again and again. It waits for no answer as a rule: an idle connection hardly ever has something to
        read unless its server has ended it, or its host is gone. Now and then it asks whether the server still takes
        writes: one that was demoted to a standby keeps the connection, and somebody else may have the lock elsewhere.

        Raises:
            ServiceError: Somebody else has it by now.
        """
        if self._connection is not None:
            if not self._trouble:
                if not self._is_asking and (time.monotonic() >= self._ask_at_s or _has_news(self._connection)):
                    self._begin_to_ask(self._connection)
                return True
            self._say(f"{self._trouble}; trying to reach it again")
            self._drop()
        if time.monotonic() < self._try_at_s:
            return False
        self._try_at_s = time.monotonic() + TRY_EVERY_S
        try:
            holder = self._try(0)
        except (DBAPIError, StorageError):
            return False
        # Our own old connection, which the server has not given up yet, is no rival.
        if holder is not None and holder.name != self._name:
            raise ServiceError(f"Dagster's database could not be reached, and is now in use by {holder}")
        if self._connection is None:
            return False
        self._say("Dagster's database is back")
        return True

    def close(self) -> None:
        """Lets go."""
        if self._connection is not None and not self._is_asking:  # else it ends with this process
            self._connection.close()
        self._engine.dispose()

    def _try(self, within_s: float) -> Holder | None:
        """Takes the lock, or returns who has it if that can still be seen."""
        connection, holder = self._ask(self._ask_for_lock, within_s)
        if connection is not None:
            self._connection = connection
            self._trouble, self._ask_at_s = "", time.monotonic() + ASK_EVERY_S
        return holder

    def _ask(self, question: Callable[[float], Answer], within_s: float) -> Answer:
        """The answer to a question that may try to connect for so long. Raises ``StorageError`` if none comes: behind
        a pooler that is paused, a connection opens and says nothing more. What comes too late ends with its session."""

        def ask() -> tuple[Answer] | StorageError | DBAPIError:
            try:
                return (question(within_s),)
            except (StorageError, DBAPIError) as error:
                return error

        answer = ask_within(within_s + CONNECT_WITHIN_S + ANSWER_WITHIN_S, ask)
        if answer is None:
            self._engine = _build_engine(self._url, self._name)  # the old one, and what it holds, are the thread's
            raise StorageError(f"Dagster's {describe_place(self._engine)} takes connections and does not answer")
        if isinstance(answer, Exception):
            raise answer
        return answer[0]

    def _shares_sessions(self, within_s: float) -> bool:
        with open_connection(self._engine, within_s) as one, open_connection(self._engine, 0) as another:
            # Two sessions at once have two processes. Behind a pooler in transaction mode, one is handed round.
            return bool(one.scalar(_SESSION) == another.scalar(_SESSION))

    def _ask_for_lock(self, within_s: float) -> tuple[Connection | None, Holder | None]:
        engine = self._engine
        connection = open_connection(engine, within_s)
        if not connection.scalar(_TAKES_WRITES):
            connection.close()
            raise StorageError(f"Dagster's {describe_place(engine)} takes no writes: it is a standby")
        if connection.scalar(_TRY, {"key": LOCK_KEY}):
            if engine is self._engine:
                return connection, None
            connection.invalidate()  # too late: nobody waits any more
        holder = _read_holder(connection)
        connection.close()
        return None, holder

    def _begin_to_ask(self, connection: Connection) -> None:
        """A thread asks: a server may stand still, and the supervisor must not."""
        self._ask_at_s = time.monotonic() + ASK_EVERY_S
        self._is_asking = True
        threading.Thread(target=self._find_trouble, args=(connection,), name="dagster-lock", daemon=True).start()

    def _find_trouble(self, connection: Connection) -> None:
        try:
            self._trouble = "" if connection.scalar(_TAKES_WRITES) else DEMOTED
        except DBAPIError:
            self._trouble = LOST
        finally:
            self._is_asking = False

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
    return f"raceday up, pid {os.getpid()} on {socket.gethostname()}"[:_LONGEST_NAME]


def _build_engine(url: str, name: str) -> Engine:
    return build_storage_engine(
        normalise_url(url).update_query_dict({"application_name": name, "connect_timeout": str(CONNECT_WITHIN_S)})
    )


def _has_news(connection: Connection) -> bool:
    poll = select.poll()  # unlike ``select.select`` it takes descriptors above 1023
    poll.register(connection.connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _read_holder(connection: Connection) -> Holder | None:
    found = connection.execute(_HOLDER, {"high": LOCK_KEY >> 32, "low": LOCK_KEY & 0xFFFF_FFFF}).first()
    return None if found is None else Holder(name=found[0], since=found[1])
