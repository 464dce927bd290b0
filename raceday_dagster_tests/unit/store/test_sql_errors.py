"""Is another try worth it? Every code of the table, and the failures that come without one."""

from __future__ import annotations

import psycopg2
import pytest
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.store.sql_errors import build_write_error, is_retryable, read_sqlstate


def make_error(sqlstate: str | None, text: str = "it failed", *, invalidated: bool = False) -> DBAPIError:
    # The driver sets its own read-only `pgcode` from the server's answer; a subclass may say it itself.
    origin = type("RaisedError", (psycopg2.OperationalError,), {"pgcode": sqlstate})(text)
    return OperationalError("SELECT 1", {}, origin, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    "sqlstate",
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
)
def test_what_passes_by_itself_is_tried_again(sqlstate: str) -> None:
    assert is_retryable(make_error(sqlstate))


@pytest.mark.parametrize(
    "sqlstate",
    ["53100", "53200", "22003", "22021", "23505", "23514", "42501", "42P01", "21000", "40002", "57000"],
)
def test_what_somebody_must_mend_is_not_tried_again(sqlstate: str) -> None:
    assert not is_retryable(make_error(sqlstate))


@pytest.mark.parametrize(
    "text",
    [
        'connection to server at "127.0.0.1", port 1 failed: Connection refused',
        'FATAL:  too many connections for role "raceday"',
        "FATAL:  the database system is starting up",
        "server closed the connection unexpectedly",
    ],
)
def test_a_refusal_without_a_code_that_may_pass_is_tried_again(text: str) -> None:
    assert is_retryable(make_error(None, text))


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "raceday"',
        'FATAL:  database "raceday" does not exist',
        'FATAL:  role "raceday" does not exist',
        "fe_sendauth: no password supplied",
    ],
)
def test_a_refusal_without_a_code_that_lasts_is_not_tried_again(text: str) -> None:
    assert not is_retryable(make_error(None, text))


def test_a_lost_connection_is_tried_again_whatever_it_says() -> None:
    assert is_retryable(make_error(None, "database does not exist any more", invalidated=True))
    assert is_retryable(InterfaceError("SELECT 1", {}, psycopg2.InterfaceError("connection already closed")))


def test_a_pool_that_stays_full_may_be_free_later() -> None:
    assert is_retryable(CheckoutTimeoutError("QueuePool limit"))


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
