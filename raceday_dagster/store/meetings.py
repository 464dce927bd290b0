"""How meetings are written: by the day's list, by a poll of one of their races, and their status, which follows from
the races and which nobody else touches."""

from __future__ import annotations

from collections.abc import Iterable

from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import Upsert

# A meeting's `api_generated_time` is the time of the answer that last changed it. The newest answer that was heard and
# changed nothing is known from its races and its day's list; so sister races need not lock the meeting to say so.
_NOT_OLDER = """
    (stored.api_generated_time IS NULL OR stored.api_generated_time <= EXCLUDED.api_generated_time)
    AND NOT EXISTS (
        SELECT FROM races
        WHERE races.meeting_id = stored.meeting_id AND races.api_generated_time > EXCLUDED.api_generated_time
    )
    AND NOT EXISTS (
        SELECT FROM racing_days AS list
        WHERE list.racing_day = stored.racing_day AND list.generated_at > EXCLUDED.api_generated_time
    )"""

FROM_RACE = Upsert(table="meetings", insert_only=("racing_day",), on_change=("api_generated_time",), guard=_NOT_OLDER)
FROM_LIST = Upsert(table="meetings", on_change=("api_generated_time",), guard=_NOT_OLDER)

# Two races of a meeting may end at once, and each sees only its own end until the other commits. So the meeting is
# locked first, in a statement of its own: the next one then sees every race that was committed before.
SETTLE = """
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


def settle_meetings(transaction: Transaction, meeting_ids: Iterable[str]) -> int:
    """Derives the status of meetings from their stored races; returns how many changed.

    Completed when every race is final or abandoned, cancelled when every race is abandoned, else active. Takes the
    locks of the meetings after those of their races, as every writer does.
    """
    ids = sorted(set(meeting_ids))
    return transaction.run("meetings", SETTLE, {"meeting_ids": ids}).rowcount if ids else 0
