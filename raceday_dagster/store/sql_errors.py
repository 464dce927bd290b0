"""What a failed database call is called: one line without a password, a parameter or a row of data."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.errors import DatabaseError, WriteError
from raceday_dagster.store.verdicts import CEILING_REFUSALS, classify_database_error, read_sqlstate

UPGRADE = "run `raceday db upgrade`"
LONGEST_EXCERPT = 200
LONGEST_NAME = 100
CHECK_VIOLATION = "23514"
UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"

# First fragment that occurs in what the server said, and our sentence for it. Texts, because a refusal at connect
# comes without an SQLSTATE.
_REFUSALS = (
    *((fragment, "has no connection left; wait, or lower DB_POOL_MAX") for fragment in CEILING_REFUSALS),
    ("authentication failed", "refuses these credentials; correct the user and password in DATABASE_URL"),
    ("no password supplied", "wants a password; add one to DATABASE_URL"),
    ("no pg_hba.conf entry", "does not allow this user or host; correct DATABASE_URL or the server's pg_hba.conf"),
    ("is not permitted to log in", "does not let this role log in; correct the user in DATABASE_URL"),
    ("permission denied", "does not let this role connect; correct the user in DATABASE_URL"),
    ('role "', "does not know this role; correct the user in DATABASE_URL"),
    ('database "', f"is not on this server; create it, then {UPGRADE}"),
    ("starting up", "is starting up; try again in a moment"),
    ("shutting down", "is shutting down; try again when it is back"),
)
_UNREACHABLE = "cannot be reached; start it (`raceday db start` starts an embedded one) or correct DATABASE_URL"


class UnstorableTextError(Exception):
    """The driver could not send a text, because PostgreSQL could not hold it; its ``ValueError`` is the cause."""


def describe_place(engine: Engine) -> str:
    """``database raceday on 127.0.0.1``: names, never credentials."""
    host = engine.url.host or engine.url.query.get("host") or "the local socket"
    return f"database {engine.url.database or '(none named)'} on {host}"


def build_database_error(engine: Engine, error: SQLAlchemyError) -> DatabaseError:
    """The one line for a database that could not be used at all; the driver's own words stay in the cause."""
    place = describe_place(engine)
    if isinstance(error, CheckoutTimeoutError):
        return DatabaseError(f"{place}: every connection of the pool is in use; wait, or raise DB_POOL_MAX")
    if read_sqlstate(error) in {UNDEFINED_TABLE, UNDEFINED_COLUMN}:
        return DatabaseError(f"the schema of {place} is not the one this code needs: {UPGRADE}")
    if read_sqlstate(error) is not None:
        return DatabaseError(f"{place} failed: {describe_cause(error)}")
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    verdict = next((sentence for fragment, sentence in _REFUSALS if fragment in said), _UNREACHABLE)
    return DatabaseError(f"{place} {verdict}")


def describe_race(race_id: str) -> str:
    """``race …``, or ``the batch`` for no race; an id of any length stays readable."""
    shown = race_id if len(race_id) <= LONGEST_NAME else f"{race_id[:LONGEST_NAME]}…"
    return f"race {shown}" if race_id else "the batch"


def build_write_error(error: SQLAlchemyError | UnstorableTextError, *, race_id: str) -> WriteError:
    """The typed error of a transaction that was rolled back.

    Args:
        error: What SQLAlchemy raised, or that the driver met a text PostgreSQL cannot hold.
        race_id: Empty when the transaction was not about one race.
    """
    what = describe_race(race_id)
    if isinstance(error, UnstorableTextError):
        cause = describe_cause(error.__cause__ or error)
        message = f"{what} was not written: it holds text that PostgreSQL cannot store ({cause})"
        return WriteError(message, race_id=race_id, retryable=False)
    if is_missing_partition(error):
        message = (
            f"{what} was not written: {describe_cause(error)}; the next write of that day makes it, and "
            "`raceday db upgrade` those of the coming days"
        )
        return WriteError(message, race_id=race_id, retryable=False)
    hint = f"; {UPGRADE}" if read_sqlstate(error) in {UNDEFINED_TABLE, UNDEFINED_COLUMN} else ""
    return WriteError(
        f"{what} was not written: {describe_cause(error)}{hint}",
        race_id=race_id,
        retryable=classify_database_error(error),
    )


def is_missing_partition(error: BaseException) -> bool:
    """Whether a history row found no partition: the SQLSTATE of a failed CHECK, but without a constraint's name."""
    diagnosis = getattr(getattr(error, "orig", None), "diag", None)
    return read_sqlstate(error) == CHECK_VIOLATION and getattr(diagnosis, "constraint_name", None) is None


def describe_cause(error: BaseException) -> str:
    """SQLSTATE and first line of what the server said, at most 200 characters. Not its DETAIL, which quotes rows."""
    if isinstance(error, CheckoutTimeoutError):
        return "no connection of the pool became free in time"
    origin = error.orig if isinstance(error, DBAPIError) else error
    said = getattr(getattr(origin, "diag", None), "message_primary", None) or str(origin)
    first_line = next(iter(str(said).strip().splitlines()), type(origin).__name__)
    state = read_sqlstate(error)
    return (f"{state} {first_line}" if state else first_line)[:LONGEST_EXCERPT]
