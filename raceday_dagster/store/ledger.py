"""The ledger: one row per race and poll in ``race_polls``, one per batch in ``batches``. Never the race data itself.

``record_polls`` is the only writer of ``race_polls`` (``future`` mends a date that a wrong clock gave), and every poll
comes to it, so that every failure is there:

* A poll whose data is written, or whose answer is stale, is recorded in the transaction of its race: both or neither.
* A poll that failed or was skipped before that is recorded alone, as soon as its race ends.
* A batch records all its races once more with its own row, which adds those that the database refused a moment before.

Rows are keyed by the run and the race, so recording a poll twice adds nothing. A failure gives way to a later success
of the same run; nothing else is replaced, least of all a committed success by a failure that only looked like one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from raceday_dagster.racing.outcomes import BatchOutcome, ProcessResult, RowCounts, Timings
from raceday_dagster.racing.records import Record
from raceday_dagster.store.schema.tables import COUNTED_TABLES
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import LARGEST_STATEMENT

_POLL_KEY = ("run_id", "race_id")
_POLL_COLUMNS = (
    *_POLL_KEY,
    *("lane", "due_at", "polled_at", "status"),
    *Timings.model_fields,
    *(f"{table}_rows" for table in COUNTED_TABLES),
    *("quality_score", "error_stage", "error_type", "error_message", "retryable"),
)
_OUTCOME_COLUMNS = (
    *("started_at", "total_races", "successes", "skipped", "failures", "retryable_failures"),
    *("max_duration_ms", "batch_duration_ms", "over_budget", "requested_concurrency", "effective_concurrency"),
)
_BATCH_COLUMNS = ("run_id", "pool_max", "pool_peak", *_OUTCOME_COLUMNS)

# A poll is announced when it is committed: to listeners of the channel `raceday`, once, however often it is recorded.
INSERT_POLLS = "\n".join(
    (
        "WITH recorded AS (",
        f"INSERT INTO race_polls AS stored ({', '.join(_POLL_COLUMNS)})",
        f"SELECT {', '.join(_POLL_COLUMNS)}",
        "FROM jsonb_populate_recordset(NULL::race_polls, %(rows)s::jsonb)",
        "ORDER BY race_id",
        "ON CONFLICT (run_id, race_id) DO UPDATE",
        f"SET {', '.join(f'{name} = EXCLUDED.{name}' for name in _POLL_COLUMNS if name not in _POLL_KEY)}",
        "WHERE stored.status = 'failed' AND EXCLUDED.status <> 'failed'",
        "RETURNING race_id, polled_at, status)",
        "SELECT pg_notify('raceday', json_build_object(",
        "'race_id', race_id, 'polled_at', polled_at, 'status', status)::text) FROM recorded",
    )
)
READ_COUNTS = "\n".join(
    (
        f"SELECT {', '.join(f'{table}_rows AS {table}' for table in COUNTED_TABLES)}",
        "FROM race_polls",
        "WHERE run_id = %(run_id)s AND race_id = %(race_id)s AND polled_at = %(polled_at)s AND status = 'success'",
    )
)
# From the newest success before on, which the index finds from the end: a race may have a thousand polls.
RECOVERED_RACES = """
SELECT asked.race_id, count(*) AS failed_polls, min(failed.polled_at) AS failing_since
FROM unnest(%(race_ids)s) AS asked (race_id)
LEFT JOIN LATERAL (
    SELECT poll.polled_at FROM race_polls AS poll
    WHERE poll.race_id = asked.race_id AND poll.status = 'success' AND poll.run_id <> %(run_id)s
    ORDER BY poll.polled_at DESC LIMIT 1
) AS good ON true
JOIN race_polls AS failed ON failed.race_id = asked.race_id AND failed.status = 'failed'
    AND failed.run_id <> %(run_id)s AND failed.polled_at > coalesce(good.polled_at, '-infinity')
GROUP BY asked.race_id
"""
LONGEST_KEY = 200
"""Characters: two of them fit an index row (2704 bytes) in any script."""
READABLE_KEY = 100
INSERT_BATCH = "\n".join(
    (
        f"INSERT INTO batches ({', '.join(_BATCH_COLUMNS)})",
        f"VALUES ({', '.join(f'%({name})s' for name in _BATCH_COLUMNS)})",
        "ON CONFLICT (run_id) DO NOTHING",
    )
)


class PollRun(Record):
    """The run that polls. A run that was started by hand has no lane and no due time."""

    run_id: str
    lane: str | None = None
    """Which way its run came to be launched: ``live`` past the queue, ``queued`` through it."""
    due_at: datetime | None = None
    """When its races fell due."""


class RecoveredRace(Record):
    """A race whose polls failed until now."""

    race_id: str
    failed_polls: int
    """Since the success before."""
    failing_since: datetime


def record_polls(transaction: Transaction, run: PollRun, races: Sequence[ProcessResult]) -> None:
    """Adds the polls of a run that the ledger does not have, of two of one race the last."""
    rows = list({row["race_id"]: row for row in (_build_poll_row(race, run) for race in races)}.values())
    for start in range(0, len(rows), LARGEST_STATEMENT):
        part = json.dumps(rows[start : start + LARGEST_STATEMENT])
        transaction.run("race_polls", INSERT_POLLS, {"rows": part})


def record_batch(transaction: Transaction, run: PollRun, outcome: BatchOutcome) -> None:
    """Adds those races of a batch that the ledger misses, and the batch unless the ledger has one of that run."""
    record_polls(transaction, run, outcome.races)
    values = {
        "run_id": make_key(run.run_id),
        "pool_max": outcome.db_pool.max,
        "pool_peak": outcome.db_pool.peak,
        **{name: getattr(outcome, name) for name in _OUTCOME_COLUMNS},
    }
    transaction.run("batches", INSERT_BATCH, values)


def read_written(transaction: Transaction, *, run_id: str, race_id: str, polled_at: datetime) -> RowCounts | None:
    """Rows that this very poll wrote, if the ledger says that it was committed."""
    key = {"run_id": make_key(run_id), "race_id": make_key(race_id), "polled_at": polled_at}
    row = transaction.run("race_polls", READ_COUNTS, key).mappings().one_or_none()
    return None if row is None else RowCounts(**row)


def read_recovered_races(connection: Connection, race_ids: Collection[str], run_id: str) -> list[RecoveredRace]:
    """Of races that a run has polled with success, those whose polls had failed since the success before."""
    values = {"race_ids": [make_key(race_id) for race_id in race_ids], "run_id": make_key(run_id)}
    return [RecoveredRace(**row) for row in connection.exec_driver_sql(RECOVERED_RACES, values).mappings()]


def _build_poll_row(result: ProcessResult, run: PollRun) -> dict[str, Any]:
    counts = result.row_counts.model_dump()
    error = result.error
    return {
        "run_id": make_key(run.run_id),
        "race_id": make_key(result.race_id),
        "lane": run.lane,
        "due_at": run.due_at.isoformat() if run.due_at else None,
        "polled_at": result.polled_at.isoformat(),
        "status": result.status,
        **result.timings.model_dump(),
        **{f"{table}_rows": counts[table] for table in COUNTED_TABLES},
        "quality_score": result.quality_score,
        "error_stage": error.stage if error else None,
        "error_type": error.type if error else None,
        "error_message": make_storable(error.message) if error else None,
        "retryable": error.retryable if error else None,
    }


def make_key(text: str) -> str:
    """The text itself where an index takes it; else its readable start and a digest, so that two never become one."""
    storable = make_storable(text)
    if storable == text and len(text) <= LONGEST_KEY:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{storable[:READABLE_KEY]}~{digest}"


def make_storable(text: str) -> str:
    """The text without what PostgreSQL refuses (NUL, half a surrogate pair): a failure must be recordable whatever
    the payload that caused it held."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
