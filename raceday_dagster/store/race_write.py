"""Everything one poll says about one race, written step by step within a transaction: the order of the tables, what is
written how, and when nothing is. ``decisions`` says why."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.outcomes import ProcessResult, RaceError, RowCounts, Timings
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store import history, meetings
from raceday_dagster.store.decisions import (
    StoredRace,
    choose_meetings_to_settle,
    choose_money_flow,
    choose_status,
)
from raceday_dagster.store.ledger import build_poll_row, read_written, write_polls
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import Upsert, dump_row, dump_values, write_rows

# Whoever writes a race holds this lock first, the day's list too: what is read after it stays true until the commit.
LOCK_AND_READ = """
SELECT pg_advisory_xact_lock(hashtextextended(%(race_id)s, 0));
SELECT race.status, race.meeting_id, race.racing_day, race.api_generated_time, race.last_poll_time,
    race.finalized_at, race.abandoned_at, meeting.racing_day AS meeting_day
FROM (SELECT) AS nothing
LEFT JOIN races AS race ON race.race_id = %(race_id)s
LEFT JOIN meetings AS meeting ON meeting.meeting_id = %(meeting_id)s
"""

RACE = Upsert(table="races", insert_only=("racing_day",), always=("last_poll_time", "api_generated_time"))
ENTRANTS = Upsert(table="entrants")
POOLS = Upsert(
    table="race_pools",
    on_change=("last_updated",),
    guard="stored.source <> 'tote_pools' OR EXCLUDED.source = 'tote_pools'",
)
RESULTS = Upsert(
    table="race_results",
    on_change=("result_time",),
    guard="stored.result_status <> 'final' OR EXCLUDED.result_status = 'final'",
)


class Poll(Record):
    """What is known of a poll before its write: whose it is, and what the stages before took."""

    run_id: str
    fetch_ms: int = 0
    transform_ms: int = 0
    elapsed_before_ms: int = 0
    """From the start of the first stage to the start of the write."""


class WriteReport(Record):
    """What a committed write came to."""

    status: Literal["written", "stale"]
    """``stale``: a newer answer is stored; nothing was written but the ledger's row."""
    row_counts: RowCounts
    write_ms: int
    """From the request for a connection to the answer to the commit; the ledger's figure ends at its own row."""
    breakdown_ms: dict[str, float]
    """Milliseconds of each step: ``checkout``, ``lock``, each table, ``race_polls``, ``commit``."""
    error: RaceError | None = None
    """Why the answer was skipped, if it was: the ledger has the same."""


class NeedsPartitionError(Exception):
    """The racing day of the race has no partition yet, as far as this process knows; roll back, make it, come again."""

    def __init__(self, racing_day: date) -> None:
        super().__init__(f"{racing_day}")
        self.racing_day = racing_day


def lock_race(transaction: Transaction, race_id: str, meeting_id: str) -> StoredRace:
    """Waits for the race's lock, held to the end of the transaction, and reads what is stored of it."""
    row = transaction.run("lock", LOCK_AND_READ, {"race_id": race_id, "meeting_id": meeting_id}).mappings().one()
    return StoredRace(**row)


def write_snapshot(transaction: Transaction, snapshot: RaceSnapshot, stored: StoredRace, racing_day: date) -> RowCounts:
    """Writes a snapshot that is not stale and returns the rows inserted or changed.

    The same answer a second time changes nothing and adds no history. Another answer with the same time of the feed
    adds its money flow; a price that differs waits for the next time of the feed, which orders prices.
    """
    change = choose_status(stored, snapshot.race.carried().get("status"), snapshot.event_timestamp)
    counts = {
        "meetings": write_rows(transaction, meetings.FROM_RACE, [_meeting_row(snapshot, racing_day)]),
        "races": write_rows(transaction, RACE, [_race_row(snapshot, racing_day, change)]),
        "entrants": write_rows(transaction, ENTRANTS, [dump_row(entrant) for entrant in snapshot.entrants]),
        "race_pools": _write_pools(transaction, snapshot),
    }
    # Only polls write these two tables, so a change in them means that this answer was not stored before.
    is_other_answer = counts["entrants"] + counts["race_pools"] > 0
    if is_other_answer or not stored.has_poll_of(snapshot.event_timestamp):
        which = choose_money_flow(stored, change)
        counts["money_flow_history"] = history.add_money_flow(transaction, snapshot, racing_day, which)
        counts["odds_history"] = history.add_odds(transaction, snapshot, racing_day)
    counts["race_results"] = _write_results(transaction, snapshot)
    settled = meetings.settle_meetings(
        transaction, choose_meetings_to_settle(stored, change, snapshot.meeting.meeting_id)
    )
    counts["meetings"] = max(counts["meetings"], settled)
    return RowCounts(**counts)


def read_committed(transaction: Transaction, snapshot: RaceSnapshot, poll: Poll) -> RowCounts | None:
    """What this very poll wrote, if an earlier attempt of it was committed after all."""
    return read_written(transaction, run_id=poll.run_id, race_id=snapshot.race_id, polled_at=snapshot.polling_timestamp)


def record_written(
    transaction: Transaction, snapshot: RaceSnapshot, poll: Poll, counts: RowCounts, write_ms: int
) -> None:
    """The ledger's row of a poll that is being written, in the same transaction."""
    _record(transaction, snapshot, poll, write_ms, status="success", row_counts=counts)


def record_stale(
    transaction: Transaction, snapshot: RaceSnapshot, poll: Poll, stored: StoredRace, write_ms: int
) -> RaceError:
    """The ledger's row of a poll whose answer is older than what is stored; returns the reason."""
    reason = WriteError(
        f"stale: the answer was made at {snapshot.event_timestamp.isoformat()}, the stored one at "
        f"{stored.api_generated_time}",
        race_id=snapshot.race_id,
        retryable=False,
    )
    error = RaceError.of(reason)
    _record(transaction, snapshot, poll, write_ms, status="skipped", error=error)
    return error


def _record(transaction: Transaction, snapshot: RaceSnapshot, poll: Poll, write_ms: int, **came_to: Any) -> None:
    timings = Timings(
        fetch_ms=poll.fetch_ms,
        transform_ms=poll.transform_ms,
        write_ms=write_ms,
        total_ms=poll.elapsed_before_ms + write_ms,
    )
    result = ProcessResult(
        race_id=snapshot.race_id,
        polled_at=snapshot.polling_timestamp,
        timings=timings,
        quality_score=snapshot.quality.score,
        **came_to,
    )
    write_polls(transaction, [build_poll_row(result, poll.run_id)])


def _meeting_row(snapshot: RaceSnapshot, racing_day: date) -> dict[str, Any]:
    return dump_row(snapshot.meeting, racing_day=racing_day, api_generated_time=snapshot.event_timestamp)


def _race_row(snapshot: RaceSnapshot, racing_day: date, change: dict[str, Any]) -> dict[str, Any]:
    row = dump_row(
        snapshot.race,
        racing_day=racing_day,
        last_poll_time=snapshot.polling_timestamp,
        api_generated_time=snapshot.event_timestamp,
    )
    row.pop("status", None)
    return row | dump_values(change)


def _write_pools(transaction: Transaction, snapshot: RaceSnapshot) -> int:
    if snapshot.pools is None:
        return 0
    row = dump_row(snapshot.pools, race_id=snapshot.race_id, last_updated=snapshot.event_timestamp)
    return write_rows(transaction, POOLS, [row])


def _write_results(transaction: Transaction, snapshot: RaceSnapshot) -> int:
    if snapshot.results is None:
        return 0
    return write_rows(transaction, RESULTS, [dump_row(snapshot.results, race_id=snapshot.race_id)])
