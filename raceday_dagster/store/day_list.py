"""The meetings and races of a racing day, written in bulk: what is due and when. Never runners, prices or money."""

from __future__ import annotations

from typing import Any, get_args

from raceday_dagster.racing.events import Category, ListedMeeting, ListedRace, RaceStatus, RacingDay
from raceday_dagster.racing.outcomes import RowCounts
from raceday_dagster.racing.snapshots import RaceType
from raceday_dagster.store import meetings
from raceday_dagster.store.decisions import StoredRace, choose_meetings_to_settle, choose_status
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import Upsert, dump_row, dump_values, write_rows

RACE_TYPES: dict[Category, RaceType] = {"T": "thoroughbred", "H": "harness", "G": "greyhound"}
KNOWN_STATUSES = frozenset(get_args(RaceStatus))

# Comes first: lists of one day take turns, and one that is older than a list already heard changes no row here.
HEAR_LIST = """
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

RACES = Upsert(table="races", on_change=("api_generated_time",))


def write_list(transaction: Transaction, day: RacingDay) -> RowCounts:
    """Writes the meetings and races that differ from what is stored; a race with a newer answer is left alone, and
    a list older than the newest of its day is not heard at all.

    The list owns the racing day of a meeting and of its races, but for those already polled: their history lies under
    the day they have, and would begin again under another.
    """
    values = {"racing_day": day.racing_day, "generated_at": day.generated_at}
    if not transaction.run("racing_days", HEAR_LIST, values).rowcount:
        return RowCounts()
    stored = _lock_races(transaction, [race.race_id for race in day.races])
    known = {race.race_id: stored.get(race.race_id, StoredRace()) for race in day.races}
    heard = [race for race in day.races if not known[race.race_id].has_newer_answer(day.generated_at)]
    changes = {race.race_id: choose_status(known[race.race_id], _read_status(race), day.generated_at) for race in heard}
    meeting_count = write_rows(transaction, meetings.FROM_LIST, [_meeting_row(row, day) for row in day.meetings])
    race_count = write_rows(
        transaction, RACES, [_race_row(race, day, known[race.race_id], changes[race.race_id]) for race in heard]
    )
    settled = meetings.settle_meetings(
        transaction,
        set().union(
            *(choose_meetings_to_settle(known[race.race_id], changes[race.race_id], race.meeting_id) for race in heard)
        ),
    )
    return RowCounts(meetings=min(meeting_count + settled, len(day.meetings)), races=race_count)


def _lock_races(transaction: Transaction, race_ids: list[str]) -> dict[str, StoredRace]:
    rows = transaction.run("lock", LOCK_AND_READ, {"race_ids": race_ids}).mappings() if race_ids else ()
    return {row["race_id"]: StoredRace(**{name: row[name] for name in row if name != "race_id"}) for row in rows}


def _read_status(race: ListedRace) -> str | None:
    return race.status if race.status in KNOWN_STATUSES else None


def _meeting_row(meeting: ListedMeeting, day: RacingDay) -> dict[str, Any]:
    return dump_row(meeting, race_type=RACE_TYPES[meeting.category], api_generated_time=day.generated_at)


def _race_row(race: ListedRace, day: RacingDay, stored: StoredRace, change: dict[str, Any]) -> dict[str, Any]:
    row = dump_row(race, type=race.category)
    for name in ("category", "status"):
        row.pop(name, None)
    if stored.is_polled:
        return row | dump_values({**change, "racing_day": stored.racing_day})
    return row | dump_values({**change, "api_generated_time": day.generated_at})
