"""The text of a multi-row upsert that touches a row only to change it, and the rows it is given.

Rows travel as one JSON parameter that PostgreSQL reads with the table's own row type: the text of a statement depends
on the carried columns only, every value is bound, and numbers keep their digits. A column that a row does not carry is
not in its statement, so it cannot be erased. A row that would not change is neither updated nor locked, so races of
one meeting do not wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from raceday_dagster.racing.records import Record
from raceday_dagster.store.transaction import Transaction

LARGEST_STATEMENT = 1_000
"""Rows."""


class Upsert(Record):
    """How rows of a table are written.

    Columns that a row carries are compared with the stored ones and set, but for these:
    """

    table: str
    key: str
    """The primary key, one column."""
    insert_only: tuple[str, ...] = ()
    """Given to a new row, never changed."""
    on_change: tuple[str, ...] = ()
    """Set with a change, but a difference in them alone is none."""
    always: tuple[str, ...] = ()
    """Set in any case, without counting as a change or moving ``updated_at``."""
    guard: str = ""
    """SQL over ``stored`` and ``EXCLUDED``: a stored row that fails it is left alone."""


def dump_row(record: Record, **added: Any) -> dict[str, Any]:
    """The carried columns of a record and the ``added`` ones, as JSON values."""
    return {**record.model_dump(mode="json", exclude_unset=True), **dump_values(added)}


def dump_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Instants and dates by column, as JSON values."""
    return {name: None if value is None else str(value) for name, value in values.items()}


def write_rows(transaction: Transaction, upsert: Upsert, rows: Iterable[Mapping[str, Any]]) -> int:
    """Inserts or changes ``rows`` and returns how many really were; of two rows with one key the last counts.

    One round trip for all the sets of carried columns among them.
    """
    by_key = {row[upsert.key]: row for row in rows}
    ordered = (by_key[key] for key in sorted(by_key))
    changed = 0
    while batch := list(islice(ordered, LARGEST_STATEMENT)):
        groups = _group(batch)
        sql = _build_statement(upsert, tuple(groups))
        values = {f"rows_{number}": json.dumps(group) for number, group in enumerate(groups.values())}
        changed += transaction.run(upsert.table, sql, values).scalar_one()
    return changed


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[frozenset[str], list[Mapping[str, Any]]]:
    groups: dict[frozenset[str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(frozenset(row), []).append(row)
    return groups


@lru_cache(maxsize=512)
def _build_statement(upsert: Upsert, groups: tuple[frozenset[str], ...]) -> str:
    """One message for all groups, which have no row in common; its only value is the number of changed rows.

    Rows are locked in the order of their keys within a group only. That makes no circle, because whoever writes races
    or entrants holds the locks of those races first, and lists, the only writers of several meetings, take turns.
    """
    numbers = range(len(groups))
    inserts = (
        f"group_{number} AS (\n{build_insert(upsert, groups[number], f'rows_{number}')}\n)" for number in numbers
    )
    outcomes = " UNION ALL ".join(f"TABLE group_{number}" for number in numbers)
    return "\n".join(
        ("WITH", ",\n".join(inserts), "SELECT count(*) FILTER (WHERE changed)", f"FROM ({outcomes})", "AS rows")
    )


def build_insert(upsert: Upsert, carried: frozenset[str], rows: str) -> str:
    """The statement for rows that carry exactly these columns, in the parameter named ``rows``; returns ``changed``.

    The anti-join leaves rows that would not change out; ``ON CONFLICT`` compares again, because between the two
    another transaction may have committed.
    """
    table, key = upsert.table, upsert.key
    columns = sorted(carried)
    apart = {key, *upsert.insert_only, *upsert.on_change, *upsert.always}
    compared = [name for name in columns if name not in apart]
    differs = f"{_row('stored', compared)} IS DISTINCT FROM {_row('EXCLUDED', compared)}"
    unchanged = f"same.{key} = given.{key} AND {_row('same', compared)} IS NOT DISTINCT FROM {_row('given', compared)}"
    clauses = [
        f"INSERT INTO {table} AS stored ({', '.join(columns)})",
        f"SELECT {', '.join(f'given.{name}' for name in columns)}",
        f"FROM jsonb_populate_recordset(NULL::{table}, %({rows})s::jsonb) AS given",
        "" if upsert.always else f"WHERE NOT EXISTS (SELECT FROM {table} AS same WHERE {unchanged})",
        f"ORDER BY given.{key}",
        f"ON CONFLICT ({key}) DO UPDATE",
        f"SET {', '.join(f'{name} = EXCLUDED.{name}' for name in columns if name not in {key, *upsert.insert_only})},",
    ]
    if upsert.always:
        clauses.append(f"updated_at = CASE WHEN {differs} THEN now() ELSE stored.updated_at END")
        clauses.append("RETURNING updated_at = now() AS changed")
    else:
        clauses.append("updated_at = now()")
        clauses.append(f"WHERE {differs}{f' AND ({upsert.guard})' if upsert.guard else ''}")
        clauses.append("RETURNING true AS changed")
    return "\n".join(clause for clause in clauses if clause)


def _row(source: str, columns: Sequence[str]) -> str:
    return f"ROW({', '.join(f'{source}.{name}' for name in columns)})"
