"""What a history partition holds, and how its rows leave the server.

The rows travel as CSV. That nothing is lost on the way is shown by numbers which PostgreSQL asks of the table and
DuckDB of the Parquet file: the rows, and for each column how many values are known and their sum. Belongs here:
columns, and the SQL made of them. Does not: files.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from raceday_dagster.errors import ArchiveError
from raceday_dagster.racing.records import Record
from raceday_dagster.store.sql_errors import describe_cause

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# A row version keeps its place and its transaction for as long as nobody changes it; cheaper to read than the row.
VERSION = "coalesce(sum(hashtextextended(ctid::text || ' ' || xmin::text, 0)), 0)::text"


# PostgreSQL's type: DuckDB's, and a number made of a value, which both databases understand alike.
KINDS = {
    "date": ("DATE", "{0} - DATE '1970-01-01'"),
    "timestamp with time zone": ("TIMESTAMPTZ", "(extract(epoch FROM {0}) * 1000000)::bigint"),
    "text": ("VARCHAR", "bit_length({0})"),
    "integer": ("INTEGER", "{0}"),
    "bigint": ("BIGINT", "{0}"),
    "boolean": ("BOOLEAN", "{0}::integer"),
    "jsonb": ("VARCHAR", "bit_length({0}::text)"),
}
DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")


class Content(Record):
    """A partition's rows, as one snapshot saw them."""

    rows: int
    numbers: tuple[Decimal | None, ...]
    """Known values and their sum, column by column: the same for the table and for its Parquet file."""
    version: str
    """Of the row versions: the same for as long as nothing was written to the table."""


class HistoryColumns(Record):
    """The columns of a partition, as the server has them now: one detached before an upgrade lacks the newest."""

    duckdb_types: dict[str, str]
    """By name, in their order."""
    numbers: str
    """SQL for ``Content.numbers``, in PostgreSQL and in DuckDB."""


def read_columns(connection: Connection, partition: str) -> HistoryColumns:
    """Raises ``ArchiveError`` for a type that cannot be exported, and what SQLAlchemy raises."""
    duckdb_types, numbers = {}, []
    for name, kind in connection.exec_driver_sql(COLUMNS, {"table": partition}):
        duckdb_types[name], number = _choose_kind(name, kind)
        numbers += [f'count("{name}")', "sum(" + number.format(f'"{name}"') + ")"]
    return HistoryColumns(duckdb_types=duckdb_types, numbers=", ".join(numbers))


def measure_content(connection: Connection, partition: str, columns: HistoryColumns) -> Content:
    """Reads every row. Raises what SQLAlchemy raises."""
    question = " ".join(("SELECT count(*),", VERSION, ",", columns.numbers, "FROM", partition))
    rows, version, *numbers = connection.exec_driver_sql(question).one()
    return Content(rows=rows, numbers=tuple(numbers), version=version)


def read_version(connection: Connection, partition: str) -> tuple[int, str]:
    """Rows and row versions only: ``Content`` without what is dear to compute."""
    question = " ".join(("SELECT count(*),", VERSION, "FROM", partition))
    rows, version = connection.exec_driver_sql(question).one()
    return rows, version


def copy_rows(connection: Connection, partition: str, target: Path) -> None:
    r"""Writes the rows to a CSV file, in the order of the first three columns; ``\N`` is NULL, ``""`` an empty text.

    Raises:
        OSError: The file could not be written; the connection is not used again.
        ArchiveError: The server broke off.
    """
    rows = " ".join(("SELECT * FROM", partition, "ORDER BY 1, 2, 3"))
    driver: Any = connection.connection.driver_connection
    try:
        with target.open("wb") as file, driver.cursor() as cursor:
            cursor.copy_expert(rf"COPY ({rows}) TO STDOUT (FORMAT csv, NULL '\N', ENCODING 'UTF8')", file)
    except OSError:
        connection.invalidate()  # the server is still sending
        raise
    except connection.dialect.loaded_dbapi.Error as error:  # SQLAlchemy translates only what it sends itself
        raise ArchiveError(describe_cause(error)) from error


def _choose_kind(name: str, kind: str) -> tuple[str, str]:
    if match := DECIMAL.fullmatch(kind):
        return f"DECIMAL({match[1]},{match[2]})", "{0}"
    try:
        return KINDS[kind]
    except KeyError:
        raise ArchiveError(f"column {name} has the type {kind}, which no Parquet type is chosen for") from None
