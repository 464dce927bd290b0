"""``docs/data.md`` out of the comments of a database: ``raceday sandbox -- python -m`` this module prints it."""

from __future__ import annotations

import itertools
import sys

from sqlalchemy import Connection

from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import build_engine

COLUMNS = """
SELECT relation.relname, obj_description(relation.oid), attname, format_type(atttypid, atttypmod),
    col_description(relation.oid, attnum)
FROM pg_class AS relation JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0
WHERE relkind = 'v' AND relnamespace = current_schema()::regnamespace
ORDER BY relation.relname, attnum
"""
BEGIN = """# Data for people and models

The views of the database that `DATABASE_URL` names, with every column. `raceday db upgrade` makes them; this page is
made from their comments (`make docs`). Instants are `timestamptz`, money is in cents, shares are in percent, odds are
dollars for one. Ask for one race at a time (`WHERE race_id = …`) and a view answers from indexes, whatever the history
holds. The tables below them are made in `raceday_dagster/store/schema/migrations/versions`.
"""


def describe_views(connection: Connection) -> str:
    """Every view of the schema in use, as Markdown: its comment, and a table of its columns."""
    rows = connection.exec_driver_sql(COLUMNS).all()
    parts = [BEGIN]
    for (view, comment), columns in itertools.groupby(rows, key=lambda row: (row[0], row[1])):
        lines = [f"| `{name}` | {kind} | {meaning} |" for _, _, name, kind, meaning in columns]
        parts.append("\n".join([f"## {view}\n\n{comment}\n", "| column | type | |", "|---|---|---|", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    engine = build_engine(Settings.from_environment().require_database_url(), pool_max=1)
    with engine.connect() as opened:
        sys.stdout.write(describe_views(opened))
