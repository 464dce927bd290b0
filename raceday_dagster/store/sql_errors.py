"""What a failed database call means: whether another try is worth it, and what it is called in one line.

This is the one place where either is decided. No line shows a password, a parameter or a row of data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.errors import DatabaseError, WriteError

UPGRADE = "run `raceday db upgrade`"
LONGEST_EXCERPT = 200
LONGEST_NAME = 100
CONNECTION_CLASS = "08"
DEFAULT_PORT = 5432
CHECK_VIOLATION = "23514"
UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
READ_ONLY_TRANSACTION = "25006"

RETRYABLE_STATES = frozenset(
    {
        "40001",  # serialization failure
        READ_ONLY_TRANSACTION,  # a standby; another connection may lead to the primary
        "40P01",  # deadlock
        "53300",  # too many connections
        LOCK_NOT_AVAILABLE,  # lock timeout
        QUERY_CANCELED,  # statement timeout
        "57P01",  # terminated by an administrator
        "57P02",  # crash of another backend
        "57P03",  # starting up or shutting down
    }
)

# The driver passes no SQLSTATE on when the server refuses at connect, so these are read in its words. The server's own
# ceiling, of the role or of all, passes as soon as somebody lets go of a connection.
_CEILING = re.compile("too many c|remaining connection slots are reserved")
_PASSING = (
    (_CEILING, "has no connection left; wait, or lower DB_POOL_MAX"),
    (re.compile("starting up"), "is starting up; try again in a moment"),
    (re.compile("shutting down"), "is shutting down; try again when it is back"),
)
_LASTING = (
    (re.compile("authentication failed"), "refuses these credentials; correct the user and password in DATABASE_URL"),
    (re.compile("no password supplied"), "wants a password; add one to DATABASE_URL"),
    (
        re.compile(r"no pg_hba\.conf entry"),
        "does not allow this user or host; correct DATABASE_URL or the server's pg_hba.conf",
    ),
    (re.compile("is not permitted to log in"), "does not let this role log in; correct the user in DATABASE_URL"),
    (re.compile("permission denied"), "does not let this role connect; correct the user in DATABASE_URL"),
    (re.compile('role ".*" does not exist'), "does not know this role; correct the user in DATABASE_URL"),
    (re.compile('database ".*" does not exist'), f"is not on this server; create it, then {UPGRADE}"),
)
_UNREACHABLE = "start it (`raceday db start` starts an embedded one) or correct DATABASE_URL"


class UnstorableTextError(Exception):
    """The driver could not send a text, because PostgreSQL could not hold it; its ``ValueError`` is the cause."""


def read_sqlstate(error: BaseException) -> str | None:
    """The five characters of the SQLSTATE of an error SQLAlchemy raised; ``None`` when the server sent none."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(origin, "pgcode", None) or getattr(origin, "sqlstate", None)
    return str(state) if state else None


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed later without anybody changing anything; never for what SQLAlchemy did not
    raise, which is a bug."""
    if isinstance(error, CheckoutTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = read_sqlstate(error)
    if state is not None:
        return state in RETRYABLE_STATES or state.startswith(CONNECTION_CLASS)
    if error.connection_invalidated:
        return True
    lasting = any(refusal.search(str(error.orig)) for refusal, _ in _LASTING)
    return isinstance(error, (OperationalError, InterfaceError)) and not lasting


def is_ceiling_refusal(error: BaseException) -> bool:
    """Whether the server refused a new connection because it, or the role, has as many as it may."""
    if not isinstance(error, OperationalError) or error.statement is not None:
        return False
    return _CEILING.search(str(error.orig)) is not None


def is_missing_partition(error: BaseException | None) -> bool:
    """Whether a history row found no partition: the SQLSTATE of a failed CHECK, but without a constraint's name."""
    if error is None or read_sqlstate(error) != CHECK_VIOLATION:
        return False
    return getattr(getattr(getattr(error, "orig", None), "diag", None), "constraint_name", None) is None


@contextmanager
def naming_database_errors(engine: Engine) -> Iterator[None]:
    """Turns what SQLAlchemy raises in the block into a ``DatabaseError``."""
    try:
        yield
    except SQLAlchemyError as error:
        raise build_database_error(engine, error) from error


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
    # Each of several servers has a line; what is indented explains the line before it.
    reason = "; ".join(line for line in said.splitlines() if line.strip() and not line[0].isspace())
    unreachable = f"cannot be reached: {reason}; {_UNREACHABLE}"
    verdict = next((sentence for refusal, sentence in _PASSING + _LASTING if refusal.search(said)), unreachable)
    return DatabaseError(f"{place} {verdict}")


def build_write_error(error: SQLAlchemyError | UnstorableTextError, *, race_id: str) -> WriteError:
    """The typed error of a transaction that was rolled back; ``race_id`` is empty when it was not about one race."""
    if isinstance(error, UnstorableTextError):
        reason = f"it holds text that PostgreSQL cannot store ({describe_cause(error.__cause__ or error)})"
    elif is_missing_partition(error):
        reason = (
            f"{describe_cause(error)}; the next write or list of that day makes it, and `raceday db upgrade` those of "
            "the coming days"
        )
    elif read_sqlstate(error) in {UNDEFINED_TABLE, UNDEFINED_COLUMN}:
        reason = f"{describe_cause(error)}; {UPGRADE}"
    else:
        reason = describe_cause(error)
    message = f"{describe_race(race_id)} was not written: {reason}"
    return WriteError(message, race_id=race_id, retryable=is_retryable(error))


def describe_place(engine: Engine) -> str:
    """``database raceday on 127.0.0.1, port 5432``: names, never credentials."""
    given = engine.dialect.create_connect_args(engine.url)[1]
    host = given.get("host") or "the local socket"
    port = "" if "host" not in given or host.startswith("/") else f", port {given.get('port', DEFAULT_PORT)}"
    return f"database {engine.url.database or '(none named)'} on {host}{port}"


def describe_race(race_id: str) -> str:
    """``race …``, or ``the batch`` for no race; an id of any length stays readable."""
    shown = race_id if len(race_id) <= LONGEST_NAME else f"{race_id[:LONGEST_NAME]}…"
    return f"race {shown}" if race_id else "the batch"


def describe_cause(error: BaseException) -> str:
    """SQLSTATE and first line of what the server said, at most 200 characters. Not its DETAIL, which quotes rows."""
    if isinstance(error, CheckoutTimeoutError):
        return "no connection of the pool became free in time"
    origin = error.orig if isinstance(error, DBAPIError) else error
    said = getattr(getattr(origin, "diag", None), "message_primary", None) or str(origin)
    first_line = next(iter(str(said).strip().splitlines()), type(origin).__name__)
    state = read_sqlstate(error)
    return (f"{state} {first_line}" if state else first_line)[:LONGEST_EXCERPT]
