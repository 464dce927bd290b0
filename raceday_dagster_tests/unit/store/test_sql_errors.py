"""Is another try worth it? Every code of the table, and the failures that come without one."""

from __future__ import annotations

import psycopg2
import pytest
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.store.sql_errors import build_write_error, describe_cause, is_retryable, read_sqlstate


def make_error(sqlstate: str | None, text: str = "it failed", *, invalidated: bool = False) -> DBAPIError:
    # The driver sets its own read-only `pgcode` from the server's answer; a subclass may say it itself.
    origin = type("RaisedError", (psycopg2.OperationalError,), {"pgcode": sqlstate})(text)
    return OperationalError("SELECT 1", {}, origin, connection_invalidated=invalidated)


PASSING = [
    *map(
        make_error,
        [
            "25006",
            "40001",
            "40P01",
            "53300",
            "55P03",
            "57014",
            "57P01",
            "57P02",
            "57P03",
            "08000",
            "08003",
            "08006",
            "08P01",
        ],
    ),
    make_error(None, 'connection to server at "127.0.0.1", port 1 failed: Connection refused'),
    make_error(None, 'FATAL:  too many connections for role "raceday"'),
    make_error(None, "FATAL:  the database system is starting up"),
    make_error(None, "server closed the connection unexpectedly"),
    make_error(None, "database does not exist any more", invalidated=True),
    InterfaceError("SELECT 1", {}, psycopg2.InterfaceError("connection already closed")),
    CheckoutTimeoutError("QueuePool limit"),
]
LASTING = [
    *map(make_error, ["53100", "53200", "22003", "22021", "23505"]),
    *map(make_error, ["23514", "42501", "42P01", "21000", "40002", "57000"]),
    make_error(None, 'FATAL:  password authentication failed for user "raceday"'),
    make_error(None, 'FATAL:  database "raceday" does not exist'),
    make_error(None, 'FATAL:  role "raceday" does not exist'),
    make_error(None, "fe_sendauth: no password supplied"),
]


@pytest.mark.parametrize("error", PASSING, ids=describe_cause)
def test_what_passes_by_itself_is_tried_again(error: Exception) -> None:
    assert is_retryable(error)


@pytest.mark.parametrize("error", LASTING, ids=describe_cause)
def test_what_somebody_must_mend_is_not_tried_again(error: Exception) -> None:
    assert not is_retryable(error)


def test_an_error_that_is_not_the_databases_is_never_retryable() -> None:
    assert not is_retryable(KeyError("races"))
    assert read_sqlstate(KeyError("races")) is None


def test_a_write_error_is_one_line_without_what_the_row_held() -> None:
    error = make_error("23505", "duplicate key value\nDETAIL:  Key (name)=(secret) already exists.")
    written = build_write_error(error, race_id="race-1")
    assert written.message == "race race-1 was not written: 23505 duplicate key value"
    assert not written.retryable


def test_a_missing_table_names_the_command_that_makes_it() -> None:
    assert "`raceday db upgrade`" in build_write_error(make_error("42P01"), race_id="race-1").message


def test_a_long_complaint_is_cut() -> None:
    assert len(build_write_error(make_error("22P02", "x" * 10_000), race_id="r").message) < 260


def test_a_message_shows_the_start_of_a_long_id() -> None:
    assert len(build_write_error(make_error("22P02"), race_id="r" * 10_000).message) < 160
