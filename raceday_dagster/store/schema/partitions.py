"""One partition of each history table per racing day: their names, and how they come to be.

A partition is made beside its parent and then attached: that takes a lock which lets race writes go on, where
``CREATE TABLE ... PARTITION OF`` would wait for all of them and hold up the next. Never called inside a race's write.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.calendar import choose_today
from raceday_dagster.racing.records import Record
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES
from raceday_dagster.store.transaction import Transaction

DAYS_AHEAD = 3
PARTITION_LOCK_KEY = 0x7261_6365_7061_7274
"""One creator at a time, whichever process it is in."""

LOCK_AND_READ = """
SELECT pg_advisory_xact_lock(%(key)s);
SELECT child.relname, pg_inherits.inhdetachpending
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = ANY (%(parents)s::regclass[])
"""
# Every batch that begins waits for the lock above, two seconds at most. Whoever holds it must not wait as long for the
# next one, which a detach has for up to half a minute.
BRIEFLY = "SET LOCAL lock_timeout = 500; "


def name_partition(table: str, racing_day: date) -> str:
    """``money_flow_history_2025_07_17``."""
    return f"{table}_{racing_day:%Y_%m_%d}"


def read_racing_day(table: str, name: str) -> date | None:
    """The day a partition's name says; ``None`` for a table that is called something else."""
    try:
        day = date.fromisoformat(name.removeprefix(f"{table}_").replace("_", "-"))
    except ValueError:
        return None
    return day if name == name_partition(table, day) else None


def choose_days(now: datetime, days: Iterable[date] = ()) -> list[date]:
    """Today in New Zealand, the three days after it, and ``days``; each once, in order."""
    today = choose_today(now)
    return sorted({today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)} | set(days))


class Partitions(Record):
    """What there is after ``create_partitions``."""

    made: tuple[str, ...]
    """Names of the partitions that were missing."""
    days: frozenset[date]
    """Racing days that have a partition of every history table, those asked for and all others."""


def create_partitions(transaction: Transaction, days: Iterable[date], race_id: str = "") -> Partitions:
    """Makes the partitions of ``days`` that are missing, in the caller's transaction.

    Raises:
        WriteError: A partition of one of the days is half detached; ``race_id`` is the race that needs it, if one does.
    """
    values = {"key": PARTITION_LOCK_KEY, "parents": list(PARTITIONED_TABLES)}
    found = transaction.run("lock", LOCK_AND_READ, values).mappings().all()
    half_detached = {row["relname"] for row in found if row["inhdetachpending"]}
    existing = {row["relname"] for row in found} - half_detached
    missing = [
        (table, day)
        for day in sorted(set(days))
        for table in PARTITIONED_TABLES
        if name_partition(table, day) not in existing
    ]
    for table, day in missing:
        if (name := name_partition(table, day)) in half_detached:
            message = f"{name} is half archived: run the job maintenance, which ends that, and then this again"
            raise WriteError(message, race_id=race_id, retryable=False)
        _create_partition(transaction, table, day)
    made = tuple(name_partition(table, day) for table, day in missing)
    present = existing.union(made)
    whole = frozenset(
        racing_day
        for name in present
        if (racing_day := read_racing_day(PARTITIONED_TABLES[0], name))
        and all(name_partition(table, racing_day) in present for table in PARTITIONED_TABLES)
    )
    return Partitions(made=made, days=whole)


def _create_partition(transaction: Transaction, table: str, day: date) -> None:
    name = name_partition(table, day)
    # A table of that name that is not attached is an archived day being put back: LIKE must not fail on it.
    transaction.run(table, f"CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL)")
    bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
    transaction.run(table, f"{BRIEFLY}ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES {bounds}")
