"""One transaction on one connection: opened with its limits, ended in every case, tried a second time when that helps.

Nothing here knows what is written. Settings are made with ``SET LOCAL`` in the message of the first statement, so they
cost no round trip and are gone with the transaction, behind PgBouncer too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.errors import WriteError
from raceday_dagster.write.engine import PoolGauge
from raceday_dagster.write.failures import build_write_error
from raceday_dagster.write.verdicts import classify_database_error

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 5_000
RETRY_PAUSE_S = 0.05

_OPENING = (
    "SET LOCAL TIME ZONE 'UTC'; "
    "SET LOCAL lock_timeout = %(lock_timeout_ms)s; "
    "SET LOCAL statement_timeout = %(statement_timeout_ms)s; "
)

Result = TypeVar("Result")


class Transaction:
    """A transaction in progress: runs statements and keeps what each step took.

    The first statement opens it. A step that begins after the deadline is refused, so a transaction outlives its
    deadline by one statement at most, and that statement has its own time-out.
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
            OutOfTimeError: The deadline has passed.
        """
        started_s = self._monotonic()
        left_ms = int(1_000 * (self._ends_s - started_s))
        if left_ms <= 0:
            raise OutOfTimeError
        values = parameters or {}
        if not self._opened:
            self._opened = True
            sql = _OPENING + sql
            values = {
                **values,
                "lock_timeout_ms": min(LOCK_TIMEOUT_MS, left_ms),
                "statement_timeout_ms": min(STATEMENT_TIMEOUT_MS, left_ms),
            }
        result = self._connection.exec_driver_sql(sql, values)
        self.add_time(step, started_s)
        return result

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
        sleep: Called with seconds before a second try.
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

        A failure that may pass is tried once more while time is left, except a pool without a free connection: that
        was a wait already.

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
        except (SQLAlchemyError, ValueError) as error:
            again = classify_database_error(error) and not isinstance(error, CheckoutTimeoutError)
            if not again or self._monotonic() + RETRY_PAUSE_S >= ends_s:
                raise build_write_error(error, race_id=race_id) from error
        self._sleep(RETRY_PAUSE_S)
        try:
            return self._attempt(work, ends_s)
        except OutOfTimeError as error:
            raise _out_of_time(race_id, deadline_s) from error
        except (SQLAlchemyError, ValueError) as error:
            raise build_write_error(error, race_id=race_id) from error

    def _attempt(self, work: Callable[[Transaction], Result], ends_s: float) -> Result:
        asked_s = self._monotonic()
        with self._gauge.asking():
            connection = self._engine.connect()
        try:
            transaction = Transaction(connection, ends_s=ends_s, monotonic=self._monotonic)
            transaction.add_time("checkout", asked_s)
            result = work(transaction)
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


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except SQLAlchemyError:
        # The first error is the one to report; a connection in an unknown state must not be used again.
        connection.invalidate()


def _out_of_time(race_id: str, deadline_s: float) -> WriteError:
    what = f"race {race_id}" if race_id else "the batch"
    return WriteError(f"{what} was not written: its {deadline_s:.1f} s were over", race_id=race_id, retryable=True)
