"""Whether the database is there and has the schema this code writes; if not, one line that says what to do."""

from __future__ import annotations

from sqlalchemy import Engine

from raceday_dagster.errors import DatabaseError
from raceday_dagster.write.failures import UPGRADE, describe_place
from raceday_dagster.write.migrations import head_revision, known_revisions, read_revision


def check_schema(engine: Engine) -> None:
    """Proves that this code can write to the engine's database.

    Raises:
        DatabaseError: One line without a password: the database cannot be reached or refuses, or its schema is
            missing, older or newer than this code.
    """
    found, head = read_revision(engine), head_revision()
    if found == head:
        return
    place = describe_place(engine)
    if found is None:
        raise DatabaseError(f"{place} has no raceday tables: {UPGRADE}")
    if found in known_revisions():
        raise DatabaseError(f"the schema of {place} is at {found}, this code needs {head}: {UPGRADE}")
    raise DatabaseError(
        f"the schema of {place} is at {found}, newer than this code, which knows {head}: install the newer raceday, "
        "or use another database"
    )
