"""One poll of one race, written in one transaction: what happens in which order, and how each table is written.

``decisions`` says why a row is written or left alone, ``history`` how the two histories grow. The meetings are here
too, because a poll writes its meeting and may end it; the day's list writes them by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import Any, Literal

from pydantic import Field

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.outcomes import ItemError, ProcessResult, RowCounts, Timings
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store import history, ledger
from raceday_dagster.store.decisions import (
    StoredRace,
    choose_meetings_to_update,
    choose_observed_entrants,
    choose_status,
    label_race,
)
from raceday_dagster.store.ledger import PollRun
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import Upsert, dump_row, dump_values, write_rows

# Whoever writes a race holds this lock first, the day's list too: what is read after it stays true until the commit.
LOCK_AND_READ = """
SELECT pg_advisory_xact_lock(hashtextextended(%(race_id)s, 0));
SELECT race.status, race.meeting_id, race.racing_day, race.api_generated_time, race.last_poll_time,
    race.finalized_at, race.abandoned_at, meeting.racing_day AS meeting_day,
    ARRAY(
        SELECT entrant_id FROM entrants WHERE entrant_id = ANY (%(entrant_ids)s) AND race_id <> %(race_id)s
    ) AS foreign_entrants,
    ARRAY(
        SELECT entrant_id FROM entrants
        WHERE race_id = %(race_id)s AND entrant_id <> ALL (%(entrant_ids)s) AND withdrawn_at IS NULL
    ) AS missing_entrants
FROM (SELECT) AS nothing
LEFT JOIN races AS race ON race.race_id = %(race_id)s
LEFT JOIN meetings AS meeting ON meeting.meeting_id = %(meeting_id)s
"""

# A meeting's `api_generated_time` is the time of the answer that last changed it. A newer answer that changed nothing
# is known from its races and its day's list; so sister races need not lock the meeting to say so.
NO_NEWER_ANSWER = """
    (stored.api_generated_time IS NULL OR stored.api_generated_time <= EXCLUDED.api_generated_time)
    AND NOT EXISTS (
        SELECT FROM races
        WHERE races.meeting_id = stored.meeting_id AND races.api_generated_time > EXCLUDED.api_generated_time
    )
    AND NOT EXISTS (
        SELECT FROM racing_days AS list
        WHERE list.racing_day = stored.racing_day AND list.generated_at > EXCLUDED.api_generated_time
    )"""
MEETING = Upsert(
    table="meetings",
    key="meeting_id",
    insert_only=("racing_day",),
    on_change=("api_generated_time",),
    guard=NO_NEWER_ANSWER,
)
RACE = Upsert(
    table="races", key="race_id", insert_only=("racing_day",), always=("last_poll_time", "api_generated_time")
)
# The rows of other races are left out before; this holds when two races list a new entrant at one moment.
ENTRANTS = Upsert(table="entrants", key="entrant_id", guard="stored.race_id = EXCLUDED.race_id")
WITHDRAW = """
UPDATE entrants SET withdrawn_at = %(event_timestamp)s, updated_at = now()
WHERE race_id = %(race_id)s AND entrant_id = ANY (%(entrant_ids)s)
"""
POOLS = Upsert(
    table="race_pools",
    key="race_id",
    on_change=("last_updated",),
    guard="stored.source <> 'tote_pools' OR EXCLUDED.source = 'tote_pools'",
)
RESULTS = Upsert(
    table="race_results",
    key="race_id",
    on_change=("result_time",),
    guard="stored.result_status <> 'final' OR EXCLUDED.result_status = 'final'",
)

# Two races of a meeting may end at once, and each sees only its own end until the other commits. So the meeting is
# locked first, in a statement of its own: the next one then sees every race that was committed before.
UPDATE_MEETING_STATUSES = """
SELECT FROM meetings WHERE meeting_id = ANY (%(meeting_ids)s) ORDER BY meeting_id FOR NO KEY UPDATE;
UPDATE meetings SET status = derived.status, updated_at = now()
FROM (
    SELECT meeting_id,
        CASE WHEN bool_and(status = 'abandoned') THEN 'cancelled'
             WHEN bool_and(status IN ('final', 'abandoned')) THEN 'completed'
             ELSE 'active' END AS status
    FROM races WHERE meeting_id = ANY (%(meeting_ids)s) GROUP BY meeting_id
) AS derived
WHERE meetings.meeting_id = derived.meeting_id AND meetings.status <> derived.status
"""


class Poll(PollRun):
    """What is known of a poll before its write: whose it is, and what the stages before took."""

    fetch_ms: int = 0
    transform_ms: int = 0
    elapsed_before_ms: int = 0
    """From the start of the first stage to the start of the write."""


class WriteReport(Record):
    """What a committed write came to."""

    status: Literal["written", "stale"]
    """``stale``: a newer answer is stored; nothing was written but the ledger's row."""
    row_counts: RowCounts
    write_ms: int = 0
    """From the request for a connection to the answer to the commit; the ledger's figure ends at its own row."""
    breakdown_ms: Mapping[str, float] = Field(default_factory=dict)
    """Milliseconds of each step: ``checkout``, ``lock``, each table, ``race_polls``, ``commit``."""
    foreign_entrants: int = 0
    """Entrants of the answer that belong to another race, which first listed them: left out with their history."""
    error: ItemError | None = None
    """Why the answer was skipped, if it was: the ledger has the same."""


def write_race(
    transaction: Transaction, snapshot: RaceSnapshot, poll: Poll, measure_ms: Callable[[], int]
) -> WriteReport:
    """Writes everything that one poll says about one race, and its row of the ledger.

    The same answer a second time changes nothing and adds no history. Another answer with the same time of the feed
    adds its money flow; a price that differs waits for the next time of the feed, which orders prices.

    Args:
        transaction: A new one; the caller commits it.
        measure_ms: Milliseconds since the write began, for the ledger.

    Raises:
        WriteError: The race belongs to no racing day.
        SQLAlchemyError: As the database says.
    """
    stored = lock_race(transaction, snapshot)
    if transaction.is_retry:
        # The first attempt may have been committed, and only the answer to its commit lost.
        counts = ledger.read_written(
            transaction, run_id=poll.run_id, race_id=snapshot.race_id, polled_at=snapshot.polling_timestamp
        )
        if counts is not None:
            return WriteReport(status="written", row_counts=counts)
    if stored.has_newer_poll(snapshot.event_timestamp):
        error = _describe_stale(snapshot, stored)
        _record(transaction, snapshot, poll, measure_ms(), status="skipped", error=error)
        return WriteReport(status="stale", row_counts=RowCounts(), error=error)

    snapshot = _leave_out(snapshot, stored.foreign_entrants)
    racing_day = label_race(stored, snapshot.race)
    change = choose_status(stored, snapshot.race.carried().get("status"), snapshot.event_timestamp)
    meeting = dump_row(snapshot.meeting, racing_day=racing_day, api_generated_time=snapshot.event_timestamp)
    meetings = write_rows(transaction, MEETING, [meeting])
    races = write_rows(transaction, RACE, [_race_row(snapshot, racing_day, change)])
    entrants = _write_entrants(transaction, snapshot, stored)
    pools = results = 0
    if snapshot.pools is not None:
        row = dump_row(snapshot.pools, race_id=snapshot.race_id, last_updated=snapshot.event_timestamp)
        pools = write_rows(transaction, POOLS, [row])
    if pools:
        history.add_pool_totals(transaction, snapshot, racing_day)
    money_flow = odds = 0
    # Only polls write entrants and pools, so a change in them means that this answer was not stored before.
    if entrants or pools or not stored.has_poll_of(snapshot.event_timestamp):
        observed = choose_observed_entrants(stored, change)
        money_flow = history.add_money_flow(transaction, snapshot, racing_day, observed)
        odds = history.add_odds(transaction, snapshot, racing_day)
    if snapshot.results is not None:
        results = write_rows(transaction, RESULTS, [dump_row(snapshot.results, race_id=snapshot.race_id)])
    meeting_ids = choose_meetings_to_update(stored, change, snapshot.meeting.meeting_id)
    statuses = update_meeting_statuses(transaction, meeting_ids)

    counts = RowCounts(
        meetings=max(meetings, statuses),
        races=races,
        entrants=entrants,
        race_pools=pools,
        money_flow_history=money_flow,
        odds_history=odds,
        race_results=results,
    )
    _record(transaction, snapshot, poll, measure_ms(), status="success", row_counts=counts)
    return WriteReport(status="written", row_counts=counts, foreign_entrants=len(stored.foreign_entrants))


def lock_race(transaction: Transaction, snapshot: RaceSnapshot) -> StoredRace:
    """Waits for the race's lock, held to the end of the transaction, and reads what is stored of it."""
    ids = {
        "race_id": snapshot.race_id,
        "meeting_id": snapshot.meeting.meeting_id,
        "entrant_ids": [entrant.entrant_id for entrant in snapshot.entrants],
    }
    return StoredRace(**transaction.run("lock", LOCK_AND_READ, ids).mappings().one())


def update_meeting_statuses(transaction: Transaction, meeting_ids: Iterable[str]) -> int:
    """Derives the status of meetings from their stored races; returns how many changed.

    Completed when every race is final or abandoned, cancelled when every race is abandoned, else active. Takes the
    locks of the meetings after those of their races, as every writer does.
    """
    ids = sorted(set(meeting_ids))
    return transaction.run("meetings", UPDATE_MEETING_STATUSES, {"meeting_ids": ids}).rowcount if ids else 0


def _leave_out(snapshot: RaceSnapshot, entrant_ids: Collection[str]) -> RaceSnapshot:
    """The snapshot without these entrants, their money and their prices."""
    if not entrant_ids:
        return snapshot
    return snapshot.model_copy(
        update={
            name: tuple(row for row in getattr(snapshot, name) if row.entrant_id not in entrant_ids)
            for name in ("entrants", "money_flow", "odds")
        }
    )


def _write_entrants(transaction: Transaction, snapshot: RaceSnapshot, stored: StoredRace) -> int:
    """Those that are listed, and when one was withdrawn that is listed no more; a list that is empty, or of which a
    runner could not be read, withdraws nobody."""
    if not snapshot.entrants:
        return 0
    rows = [dump_row(entrant, withdrawn_at=None) for entrant in snapshot.entrants]
    changed = write_rows(transaction, ENTRANTS, rows)
    says_who_is_gone = not snapshot.has_unreadable_runner and not stored.has_poll_of(snapshot.event_timestamp)
    if stored.missing_entrants and says_who_is_gone:
        values = {
            "race_id": snapshot.race_id,
            "entrant_ids": list(stored.missing_entrants),
            "event_timestamp": snapshot.event_timestamp,
        }
        changed += transaction.run("entrants", WITHDRAW, values).rowcount
    return changed


def _describe_stale(snapshot: RaceSnapshot, stored: StoredRace) -> ItemError:
    message = (
        f"stale: the answer was made at {snapshot.event_timestamp.isoformat()}, the stored one at "
        f"{stored.api_generated_time}"
    )
    return ItemError.of(WriteError(message, race_id=snapshot.race_id, retryable=False))


def _record(transaction: Transaction, snapshot: RaceSnapshot, poll: Poll, write_ms: int, **came_to: Any) -> None:
    result = ProcessResult(
        race_id=snapshot.race_id,
        polled_at=snapshot.polling_timestamp,
        timings=Timings(
            fetch_ms=poll.fetch_ms,
            transform_ms=poll.transform_ms,
            write_ms=write_ms,
            total_ms=poll.elapsed_before_ms + write_ms,
        ),
        quality_score=snapshot.quality.score,
        **came_to,
    )
    ledger.record_polls(transaction, poll, [result])


def _race_row(snapshot: RaceSnapshot, racing_day: date, change: dict[str, Any]) -> dict[str, Any]:
    row = dump_row(
        snapshot.race,
        racing_day=racing_day,
        last_poll_time=snapshot.polling_timestamp,
        api_generated_time=snapshot.event_timestamp,
    )
    row.pop("status", None)
    return row | dump_values(change)
