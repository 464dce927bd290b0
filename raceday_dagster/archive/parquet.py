"""History rows as a Parquet file: from the server's CSV, and compared with it row by row.

DuckDB does the work, and is imported when the first file is: no run that polls races ever loads it. (Where pyarrow is
installed, pandas imports it for every program.) It works in one thread and a bounded memory, and may fetch nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from raceday_dagster.archive.content import Content, HistoryColumns
from raceday_dagster.errors import ArchiveError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "256MB"
SPILL_FOLDER = ".duckdb.partial"


class ParquetError(ArchiveError):
    """DuckDB could not write or read a file; the message is the first line of what it said."""


def write_parquet(rows: Path, columns: HistoryColumns, target: Path) -> None:
    """Turns the CSV of ``content.copy_rows`` into a Parquet file.

    Raises:
        ParquetError: The CSV is not what the columns say, or the file could not be written.
    """
    with _open(target.parent) as duckdb:
        options = "(FORMAT parquet, COMPRESSION zstd)"
        duckdb.execute(f"COPY (FROM {_read_csv(rows, columns)}) TO {_quote(str(target))} {options}")


def holds_rows(file: Path, rows: Path, columns: HistoryColumns, content: Content) -> bool:
    """Whether a Parquet file holds each row of the CSV as often as the CSV does and no other row, and has the numbers
    that the server found in the table. Raises ``ParquetError`` for what is no Parquet file of these columns."""
    parquet = f"read_parquet({_quote(str(file))})"
    with _open(file.parent) as duckdb:
        question = " ".join(("SELECT count(*),", columns.numbers, "FROM", parquet))
        found = duckdb.execute(question).fetchone() or ()
        numbers = tuple(None if number is None else Decimal(number) for number in found)
        if numbers != (content.rows, *content.numbers):
            return False
        missing = duckdb.execute(f"FROM {_read_csv(rows, columns)} EXCEPT ALL FROM {parquet} LIMIT 1").fetchone()
        return missing is None


@contextmanager
def _open(folder: Path) -> Iterator[DuckDBPyConnection]:
    import duckdb

    shutil.rmtree(folder / SPILL_FOLDER, ignore_errors=True)  # a process that was killed left it
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": 1,
        "temp_directory": str(folder / SPILL_FOLDER),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except duckdb.Error as error:
        raise ParquetError(str(error).strip().partition("\n")[0][:300]) from error


def _read_csv(rows: Path, columns: HistoryColumns) -> str:
    kinds = ", ".join(f"{_quote(name)}: {_quote(kind)}" for name, kind in columns.duckdb_types.items())
    return (
        f"read_csv({_quote(str(rows))}, columns={{{kinds}}}, auto_detect=false, header=false, delim=',', quote='\"', "
        "escape='\"', new_line='\\n', nullstr='\\N', allow_quoted_nulls=false)"
    )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
