"""One transaction on one connection: opened with its limits, ended in every case, tried a second time when that helps.

Nothing here knows what is written. Settings are made with ``SET LOCAL`` in the message of the first statement, so they
cost no round trip and are gone with the transaction, behind PgBouncer too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError
from sqlalchemy.pool import QueuePool

from raceday_dagster.errors import WriteError
from raceday_dagster.store.engine import PoolGauge
from raceday_dagster.store.sql_errors import UnstorableTextError, build_write_error, describe_race
from raceday_dagster.store.verdicts import classify_database_error, is_ceiling_refusal

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 5_000
RETRY_PAUSE_S = 0.05
CEILING_PAUSE_S = 0.1

_OPENING = f"SET LOCAL TIME ZONE 'UTC'; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "

Result = TypeVar("Result")


class Transaction:
    """A transaction in progress: runs statements and keeps what each step took.

    The first statement opens it. What begins after the deadline is refused, the commit too, and a statement that
    begins before it is cut off there by the server.
    """

    def __init__(self, connection: Connection, *, ends_s: float, monotonic: Callable[[], float]) -> None:
        self.breakdown_ms: dict[str, float] = {}
        self._connection = connection
        self._ends_s = ends_s
        self._monotonic = monotonic
        self._opened = False

    def run(self, step: str, sql: str, parameters: dict[str, Any] | None = None) -> CursorResult[Any]:
        """Sends ``sql`` (one message, one round trip) and adds its time to ``step``.

        Raises:
            SQLAlchemyError: As the database says.
            UnstorableTextError: A parameter holds text that PostgreSQL cannot.
            OutOfTimeError: The deadline has passed.
        """
        started_s = self._monotonic()
        left_ms = self.refuse_late()
        if left_ms < STATEMENT_TIMEOUT_MS or not self._opened:
            sql = f"SET LOCAL statement_timeout = {min(STATEMENT_TIMEOUT_MS, left_ms)}; {sql}"
        if not self._opened:
            self._opened = True
            sql = _OPENING + sql
        try:
            result = self._connection.exec_driver_sql(sql, parameters or {})
        except ValueError as error:
            raise UnstorableTextError from error
        self.add_time(step, started_s)
        return result

    def refuse_late(self) -> int:
        """Milliseconds left, at least one; raises ``OutOfTimeError`` when there are none."""
        left_ms = int(1_000 * (self._ends_s - self._monotonic()))
        if left_ms <= 0:
            raise OutOfTimeError
        return left_ms

    def add_time(self, step: str, started_s: float) -> None:
        """Adds the time since ``started_s`` to ``step``."""
        took_ms = 1_000 * (self._monotonic() - started_s)
        self.breakdown_ms[step] = self.breakdown_ms.get(step, 0.0) + took_ms


class OutOfTimeError(Exception):
    """The deadline of a transaction passed between two of its statements."""


class Transactions:
    """Runs pieces of work, each in one transaction of the engine's pool.

    Args:
        engine: From ``engine.build_engine``.
        gauge: The gauge of that engine's pool.
        monotonic: Clock of durations and deadlines.
        sleep: Called with seconds before a second try, and while the server has no connection left.
    """

    def __init__(
        self,
        engine: Engine,
        gauge: PoolGauge,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._gauge = gauge
        self._monotonic = monotonic
        self._sleep = sleep

    def run(self, work: Callable[[Transaction], Result], *, race_id: str = "", deadline_s: float) -> Result:
        """Commits ``work``, or leaves nothing of it.

        A failure that may pass is tried once more while time is left, except a pool or a server without a free
        connection: that was a wait already.

        Args:
            work: Called once or twice; must not keep anything between the calls.
            race_id: For the error.
            deadline_s: Seconds all of it may take.

        Raises:
            WriteError: Nothing was written (or, when a commit's answer was lost, all of it).
        """
        ends_s = self._monotonic() + deadline_s
        try:
            return self._attempt(work, ends_s)
        except OutOfTimeError as error:
            raise _out_of_time(race_id, deadline_s) from error
        except (SQLAlchemyError, UnstorableTextError) as error:
            again = classify_database_error(error) and not isinstance(error, CheckoutTimeoutError)
            again = again and not _is_full(error)
            if not again or self._monotonic() + RETRY_PAUSE_S >= ends_s:
                raise build_write_error(error, race_id=race_id) from error
        self._sleep(RETRY_PAUSE_S)
        try:
            return self._attempt(work, ends_s)
        except OutOfTimeError as error:
            raise _out_of_time(race_id, deadline_s) from error
        except (SQLAlchemyError, UnstorableTextError) as error:
            raise build_write_error(error, race_id=race_id) from error

    def connect(self, ends_s: float) -> Connection:
        """``connect_patiently``, counted by the gauge."""
        with self._gauge.asking():
            return connect_patiently(self._engine, ends_s, monotonic=self._monotonic, sleep=self._sleep)

    def _attempt(self, work: Callable[[Transaction], Result], ends_s: float) -> Result:
        asked_s = self._monotonic()
        connection = self.connect(ends_s)
        try:
            transaction = Transaction(connection, ends_s=ends_s, monotonic=self._monotonic)
            transaction.add_time("checkout", asked_s)
            result = work(transaction)
            transaction.refuse_late()
            committing_s = self._monotonic()
            connection.commit()
            transaction.add_time("commit", committing_s)
        except BaseException:
            _roll_back(connection)
            raise
        else:
            return result
        finally:
            connection.close()


def connect_patiently(
    engine: Engine,
    ends_s: float = math.inf,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Connection:
    """A connection of the pool. A server, or a role, that has as many as it may is asked again until ``ends_s``, but
    no longer than a checkout waits for the pool. Raises what SQLAlchemy raises."""
    pool = engine.pool
    patience_s = pool.timeout() if isinstance(pool, QueuePool) else 0.0
    ends_s = min(ends_s, monotonic() + patience_s)
    while True:
        try:
            return engine.connect()
        except OperationalError as error:
            if not _is_full(error) or monotonic() + CEILING_PAUSE_S >= ends_s:
                raise
        sleep(CEILING_PAUSE_S)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OperationalError) and error.statement is None and is_ceiling_refusal(error)


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except SQLAlchemyError:
        # The first error is the one to report; a connection in an unknown state must not be used again.
        connection.invalidate()


def _out_of_time(race_id: str, deadline_s: float) -> WriteError:
    what = describe_race(race_id)
    return WriteError(f"{what} was not written: its {deadline_s:.1f} s were over", race_id=race_id, retryable=True)
