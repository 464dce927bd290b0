"""The meetings and races of a racing day, written in bulk: what is due and when. Never runners, prices or money."""

from __future__ import annotations

from typing import Any

from raceday_dagster.racing.events import STATUSES, ListedRace, RacingDay
from raceday_dagster.racing.outcomes import RowCounts
from raceday_dagster.racing.snapshots import RACE_TYPES
from raceday_dagster.store.decisions import StoredRace, choose_meetings_to_update, choose_status
from raceday_dagster.store.race_write import NO_NEWER_ANSWER, update_meeting_statuses
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import Upsert, dump_row, dump_values, write_rows

# Comes first: lists of one day take turns, and one that is older than the newest already written changes no row here.
CLAIM_DAY = """
INSERT INTO racing_days AS stored (racing_day, generated_at) VALUES (%(racing_day)s, %(generated_at)s)
ON CONFLICT (racing_day) DO UPDATE SET generated_at = EXCLUDED.generated_at
WHERE stored.generated_at <= EXCLUDED.generated_at
"""

# The same lock as a poll takes, for every race of the list and in one order: no list waits for a list in a circle, and
# a poll never waits for a second lock of this kind.
LOCK_AND_READ = """
SELECT pg_advisory_xact_lock(key)
FROM (SELECT DISTINCT hashtextextended(id, 0) AS key FROM unnest(%(race_ids)s) AS id ORDER BY key) AS keys;
SELECT race_id, status, meeting_id, racing_day, api_generated_time, last_poll_time, finalized_at, abandoned_at
FROM races WHERE race_id = ANY (%(race_ids)s)
"""

MEETINGS = Upsert(table="meetings", key="meeting_id", on_change=("api_generated_time",), guard=NO_NEWER_ANSWER)
RACES = Upsert(table="races", key="race_id", on_change=("api_generated_time",))


def write_list(transaction: Transaction, day: RacingDay) -> RowCounts:
    """Writes the meetings and races that differ from what is stored; a race with a newer answer is left alone, and
    a list older than the newest of its day changes nothing at all. A list without a race is not stored: its day would
    count as loaded, and nothing would look for its races again.

    The list owns the racing day of a meeting and of its races, but for those already polled: their history lies under
    the day they have, and would begin again under another.
    """
    if not day.races:
        return RowCounts()
    values = {"racing_day": day.racing_day, "generated_at": day.generated_at}
    if not transaction.run("racing_days", CLAIM_DAY, values).rowcount:
        return RowCounts()
    known = _lock_races(transaction, [race.race_id for race in day.races])
    meeting_rows = [
        dump_row(meeting, race_type=RACE_TYPES[meeting.category], api_generated_time=day.generated_at)
        for meeting in day.meetings
    ]
    meetings = write_rows(transaction, MEETINGS, meeting_rows)
    race_rows, meeting_ids = [], set[str]()
    for race in day.races:
        stored = known.get(race.race_id, StoredRace())
        if stored.has_newer_answer(day.generated_at):
            continue
        change = choose_status(stored, race.status if race.status in STATUSES else None, day.generated_at)
        race_rows.append(_race_row(race, day, stored, change))
        meeting_ids |= choose_meetings_to_update(stored, change, race.meeting_id)
    races = write_rows(transaction, RACES, race_rows)
    statuses = update_meeting_statuses(transaction, meeting_ids)
    return RowCounts(meetings=min(meetings + statuses, len(day.meetings)), races=races)


def _lock_races(transaction: Transaction, race_ids: list[str]) -> dict[str, StoredRace]:
    rows = transaction.run("lock", LOCK_AND_READ, {"race_ids": race_ids}).mappings()
    return {row["race_id"]: StoredRace(**{name: row[name] for name in row if name != "race_id"}) for row in rows}


def _race_row(race: ListedRace, day: RacingDay, stored: StoredRace, change: dict[str, Any]) -> dict[str, Any]:
    row = dump_row(race, type=race.category)
    for name in ("category", "status"):
        row.pop(name, None)
    if stored.is_polled:
        return row | dump_values({**change, "racing_day": stored.racing_day})
    return row | dump_values({**change, "api_generated_time": day.generated_at})
