"""Whether a failed database call is worth another try: the one place where that is decided."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

RETRYABLE_STATES = frozenset(
    {
        "40001",  # serialization failure
        "40P01",  # deadlock
        "53300",  # too many connections
        "55P03",  # lock timeout
        "57014",  # statement timeout
        "57P01",  # terminated by an administrator
        "57P02",  # crash of another backend
        "57P03",  # starting up or shutting down
    }
)
CONNECTION_CLASS = "08"

# The server refuses at connect without an SQLSTATE that the driver passes on; these do not pass by waiting.
LASTING_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
)

# The server's own ceiling, of the role or of all: these pass as soon as somebody lets go of a connection.
CEILING_REFUSALS = ("too many c", "remaining connection slots are reserved")


def read_sqlstate(error: BaseException) -> str | None:
    """The five characters of the SQLSTATE of an error SQLAlchemy raised; ``None`` when the server sent none."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(origin, "pgcode", None) or getattr(origin, "sqlstate", None)
    return str(state) if state else None


def classify_database_error(error: BaseException) -> bool:
    """Whether the same call may succeed later without anybody changing anything.

    Args:
        error: What SQLAlchemy raised. Anything else is not a database's mood and never retryable.
    """
    if isinstance(error, CheckoutTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = read_sqlstate(error)
    if state is not None:
        return state in RETRYABLE_STATES or state.startswith(CONNECTION_CLASS)
    if error.connection_invalidated:
        return True
    return isinstance(error, (OperationalError, InterfaceError)) and not is_lasting_refusal(error)


def is_lasting_refusal(error: DBAPIError) -> bool:
    """Whether the server refused the connection for a reason that waiting does not cure."""
    return any(refusal in str(error.orig) for refusal in LASTING_REFUSALS)


def is_ceiling_refusal(error: DBAPIError) -> bool:
    """Whether the server refused a new connection because it, or the role, has as many as it may."""
    return any(refusal in str(error.orig) for refusal in CEILING_REFUSALS)
