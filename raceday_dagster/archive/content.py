"""What a history partition holds, said in a few bytes, and how its rows leave the server.

The fingerprint of the rows is written down twice, in PostgreSQL's SQL and in DuckDB's: a Parquet file has the same one
only if every value of every row is in it, whatever its order. Belongs here: columns, and the SQL made of them. Does
not: files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from sqlalchemy import Connection

from raceday_dagster.racing.records import Record

COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# A row version keeps its place and its transaction for as long as nobody changes it; cheaper to read than the row.
VERSION = "coalesce(sum(hashtextextended(ctid::text || ' ' || xmin::text, 0)), 0)::text"

# PostgreSQL's type: DuckDB's, and the value as text in the one and the other.
KINDS = {
    "date": ("DATE", "({0} - DATE '1970-01-01')::text", "date_diff('day', DATE '1970-01-01', {0})::VARCHAR"),
    "timestamp with time zone": (
        "TIMESTAMPTZ",
        "(extract(epoch FROM {0}) * 1000000)::bigint::text",
        "epoch_us({0})::VARCHAR",
    ),
    "text": ("VARCHAR", "{0}", "{0}"),
    "integer": ("INTEGER", "{0}::text", "{0}::VARCHAR"),
    "bigint": ("BIGINT", "{0}::text", "{0}::VARCHAR"),
    "boolean": ("BOOLEAN", "{0}::int::text", "{0}::INTEGER::VARCHAR"),
}
DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")


class UnknownKindError(Exception):
    """A column has a type that cannot be exported; the message names both."""


class Content(Record):
    """A partition's rows, as one snapshot saw them."""

    rows: int
    fingerprint: str
    """Of the values: the same in the table and in its Parquet file."""
    version: str
    """Of the row versions: the same for as long as nothing was written to the table."""


class HistoryColumns:
    """The columns of a partition, as the server has them now: one detached before an upgrade lacks the newest.

    Args:
        columns: Name and type, as ``format_type`` says it.

    Raises:
        UnknownKindError: A type is not one of the history tables'.
    """

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        self.duckdb_types: dict[str, str] = {}
        said, read = [], []
        for name, kind in columns:
            self.duckdb_types[name], in_postgres, in_duckdb = _choose_kind(name, kind)
            said.append(in_postgres.format(f'"{name}"'))
            read.append(in_duckdb.format(f'"{name}"'))
        self._prefix = hashlib.md5(repr(list(columns)).encode(), usedforsecurity=False).hexdigest()[:8]
        # The length before each value keeps two columns from trading a character, and NULL from being ''.
        in_postgres = " || ".join(f"coalesce(octet_length({value}) || ':' || {value}, '-')" for value in said)
        in_duckdb = " || ".join(f"coalesce(strlen({value}) || ':' || {value}, '-')" for value in read)
        self._postgres_sum = f"coalesce(sum(('x' || substr(md5({in_postgres}), 1, 15))::bit(60)::bigint), 0)::text"
        self._duckdb_sum = f"coalesce(sum(('0x' || substr(md5({in_duckdb}), 1, 15))::BIGINT), 0)::VARCHAR"

    def build_fingerprint(self, total: str) -> str:
        """Columns and values together: the sum alone says nothing of names and types."""
        return f"{self._prefix}-{total}"

    def duckdb_question(self, relation: str) -> str:
        """A query for the number of rows and the sum of ``relation``."""
        return " ".join(("SELECT count(*),", self._duckdb_sum, "FROM", relation))

    def measure(self, connection: Connection, partition: str) -> Content:
        """Reads every row. Raises what SQLAlchemy raises."""
        question = " ".join(("SELECT count(*),", self._postgres_sum, ",", VERSION, "FROM", partition))
        rows, total, version = connection.exec_driver_sql(question).one()
        return Content(rows=rows, fingerprint=self.build_fingerprint(total), version=version)


def read_columns(connection: Connection, partition: str) -> HistoryColumns:
    """Raises ``UnknownKindError``, and what SQLAlchemy raises."""
    rows = connection.exec_driver_sql(COLUMNS, {"table": partition})
    return HistoryColumns([(name, kind) for name, kind in rows])


def read_version(connection: Connection, partition: str) -> tuple[int, str]:
    """Rows and row versions only: ``Content`` without what is dear to compute."""
    question = " ".join(("SELECT count(*),", VERSION, "FROM", partition))
    rows, version = connection.exec_driver_sql(question).one()
    return rows, version


def build_copy(partition: str) -> str:
    r"""The statement that sends the rows as CSV, those of a race side by side; ``\N`` is NULL, ``""`` an empty text."""
    rows = " ".join(("SELECT * FROM", partition, "ORDER BY racing_day, race_id, entrant_id"))
    return rf"COPY ({rows}) TO STDOUT (FORMAT csv, NULL '\N', ENCODING 'UTF8')"


def _choose_kind(name: str, kind: str) -> tuple[str, str, str]:
    if match := DECIMAL.fullmatch(kind):
        return f"DECIMAL({match[1]},{match[2]})", "{0}::text", "{0}::VARCHAR"
    try:
        return KINDS[kind]
    except KeyError:
        raise UnknownKindError(f"column {name} has the type {kind}, which no Parquet type is chosen for") from None
