"""History rows as a Parquet file: from the server's CSV, and back to be checked.

DuckDB does the work, and is imported when the first file is: no run that polls races ever loads it. (Where pyarrow is
installed, pandas imports it for every program.) It works in one thread and a bounded memory, and may fetch nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raceday_dagster.archive.content import HistoryColumns

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "256MB"
FINGERPRINT_KEY = "raceday_fingerprint"


class ParquetError(Exception):
    """DuckDB could not write or read a file; the message is the first line of what it said."""


def write_parquet(rows: Path, columns: HistoryColumns, target: Path, labels: Mapping[str, str]) -> None:
    """Turns the CSV of ``history_content.build_copy`` into a Parquet file whose metadata has ``labels``.

    Raises:
        ParquetError: The CSV is not what the columns say, or the file could not be written.
    """
    kinds = ", ".join(f"{_quote(name)}: {_quote(kind)}" for name, kind in columns.duckdb_types.items())
    told = ", ".join(f"{name}: {_quote(value)}" for name, value in labels.items())
    relation = (
        f"read_csv({_quote(str(rows))}, columns={{{kinds}}}, auto_detect=false, header=false, delim=',', quote='\"', "
        "escape='\"', new_line='\\n', nullstr='\\N', allow_quoted_nulls=false)"
    )
    with _open(target.parent) as duckdb:
        options = f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{told}}})"
        duckdb.execute(" ".join(("COPY (FROM", relation, ") TO", _quote(str(target)), options)))


def measure_parquet(file: Path, columns: HistoryColumns) -> tuple[int, str]:
    """Rows and fingerprint of what is really in a file. Raises ``ParquetError``."""
    with _open(file.parent) as duckdb:
        found = duckdb.execute(columns.duckdb_question(f"read_parquet({_quote(str(file))})")).fetchone()
    if found is None:
        raise ParquetError(f"{file.name} has no answer")
    return int(found[0]), columns.build_fingerprint(found[1])


def read_fingerprint(file: Path) -> str | None:
    """The fingerprint a file was given when it was written. Raises ``ParquetError`` for what is no Parquet file."""
    with _open(file.parent) as duckdb:
        found = duckdb.execute("SELECT key, value FROM parquet_kv_metadata($file)", {"file": str(file)}).fetchall()
    return {_read_text(key): _read_text(value) for key, value in found}.get(FINGERPRINT_KEY)


@contextmanager
def _open(folder: Path) -> Iterator[DuckDBPyConnection]:
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": 1,
        "temp_directory": str(folder),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
    except duckdb.Error as error:
        raise ParquetError(str(error).strip().partition("\n")[0][:300]) from error


def _read_text(said: str | bytes) -> str:
    return said if isinstance(said, str) else said.decode("utf-8", "replace")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
