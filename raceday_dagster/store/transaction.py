"""One transaction on one connection: opened with its limits, ended in every case, tried a second time when that helps.

Nothing here knows what is written. Settings are made with ``SET LOCAL`` in the message of the first statement, so they
cost no round trip and are gone with the transaction, behind PgBouncer too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError
from sqlalchemy.pool import QueuePool

from raceday_dagster.errors import WriteError
from raceday_dagster.store.engine import PoolGauge
from raceday_dagster.store.sql_errors import (
    UnstorableTextError,
    build_write_error,
    describe_race,
    is_ceiling_refusal,
    is_retryable,
)

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 5_000
RETRY_PAUSE_S = 0.05
CEILING_PAUSE_S = 0.1

_OPENING = f"SET LOCAL TIME ZONE 'UTC'; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "

Result = TypeVar("Result")


class OutOfTimeError(Exception):
    """The deadline of a transaction passed between two of its statements."""


class Transaction:
    """A transaction in progress: runs statements and adds up what each step takes.

    The first statement opens it. What begins after the deadline is refused, the commit too, and a statement that
    begins before it is cut off there by the server.

    Args:
        connection: A connection of the pool, without a transaction.
        ends_s: The deadline, a reading of ``monotonic``.
        monotonic: Clock of durations.
        breakdown_ms: Milliseconds by step, added to here.
        is_retry: Whether this is the second attempt, so that the first may have been committed after all.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        ends_s: float,
        monotonic: Callable[[], float],
        breakdown_ms: dict[str, float] | None = None,
        is_retry: bool = False,
    ) -> None:
        self.is_retry = is_retry
        self._breakdown_ms = {} if breakdown_ms is None else breakdown_ms
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
        left_ms = self._refuse_late()
        if left_ms < STATEMENT_TIMEOUT_MS or not self._opened:
            sql = f"SET LOCAL statement_timeout = {min(STATEMENT_TIMEOUT_MS, left_ms)}; {sql}"
        if not self._opened:
            self._opened = True
            sql = _OPENING + sql
        with self.measure(step):
            try:
                return self._connection.exec_driver_sql(sql, parameters or {})
            except ValueError as error:
                raise UnstorableTextError from error

    def commit(self) -> None:
        """Commits; raises ``OutOfTimeError`` after the deadline, and what SQLAlchemy raises."""
        self._refuse_late()
        with self.measure("commit"):
            self._connection.commit()

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Adds the time that the block takes to ``step``."""
        started_s = self._monotonic()
        yield
        took_ms = 1_000 * (self._monotonic() - started_s)
        self._breakdown_ms[step] = self._breakdown_ms.get(step, 0.0) + took_ms

    def _refuse_late(self) -> int:
        """Milliseconds left, at least one; raises ``OutOfTimeError`` when there are none."""
        left_ms = int(1_000 * (self._ends_s - self._monotonic()))
        if left_ms <= 0:
            raise OutOfTimeError
        return left_ms


class Transactions:
    """Runs pieces of work, each in one transaction of the engine's pool.

    ``sleep`` is called before a second try, and while the server has no connection left.
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

    def run(
        self,
        work: Callable[[Transaction], Result],
        *,
        race_id: str = "",
        deadline_s: float,
        breakdown_ms: dict[str, float] | None = None,
    ) -> Result:
        """Commits ``work``, or leaves nothing of it.

        A failure that may pass is tried once more while time is left, except a pool or a server without a free
        connection: that was a wait already.

        Args:
            work: Called once or twice; must not keep anything between the calls.
            race_id: For the error.
            deadline_s: Seconds all of it may take.
            breakdown_ms: Gets the milliseconds of each step, ``checkout`` and ``commit`` included, of both attempts.

        Raises:
            WriteError: Nothing was written (or, when a commit's answer was lost, all of it).
        """
        ends_s = self._monotonic() + deadline_s
        is_retry = False
        while True:
            try:
                return self._attempt(work, ends_s, {} if breakdown_ms is None else breakdown_ms, is_retry)
            except OutOfTimeError as error:
                message = f"{describe_race(race_id)} was not written: its {deadline_s:.1f} s were over"
                raise WriteError(message, race_id=race_id, retryable=True) from error
            except (SQLAlchemyError, UnstorableTextError) as error:
                has_waited = isinstance(error, CheckoutTimeoutError) or is_ceiling_refusal(error)
                is_late = self._monotonic() + RETRY_PAUSE_S >= ends_s
                if is_retry or has_waited or is_late or not is_retryable(error):
                    raise build_write_error(error, race_id=race_id) from error
            self._sleep(RETRY_PAUSE_S)
            is_retry = True

    def connect(self, ends_s: float) -> Connection:
        """``connect_patiently``, counted by the gauge."""
        with self._gauge.asking():
            return connect_patiently(self._engine, ends_s, monotonic=self._monotonic, sleep=self._sleep)

    def _attempt(
        self, work: Callable[[Transaction], Result], ends_s: float, breakdown_ms: dict[str, float], is_retry: bool
    ) -> Result:
        asked_s = self._monotonic()
        connection = self.connect(ends_s)
        breakdown_ms["checkout"] = breakdown_ms.get("checkout", 0.0) + 1_000 * (self._monotonic() - asked_s)
        try:
            transaction = Transaction(
                connection,
                ends_s=ends_s,
                monotonic=self._monotonic,
                breakdown_ms=breakdown_ms,
                is_retry=is_retry,
            )
            result = work(transaction)
            transaction.commit()
        except BaseException:
            try:
                connection.rollback()
            except SQLAlchemyError:
                # The first error is the one to report; a connection in an unknown state must not be used again.
                connection.invalidate()
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
            if not is_ceiling_refusal(error) or monotonic() + CEILING_PAUSE_S >= ends_s:
                raise
        sleep(CEILING_PAUSE_S)
