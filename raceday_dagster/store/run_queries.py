"""What people are shown of some runs: which races come next, their polls in the ledger, and where the money moved.

The functions open a connection themselves and raise ``DatabaseError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Engine

from raceday_dagster.racing.outcomes import Status
from raceday_dagster.racing.records import Record
from raceday_dagster.store.queries import ask_engine

NEXT_RACES = """
SELECT race_id, meeting_name || ' R' || race_number AS title, start_time
FROM races JOIN meetings USING (meeting_id)
WHERE start_time > %(after)s AND races.status NOT IN ('final', 'abandoned')
ORDER BY start_time, race_id
LIMIT %(limit)s
"""
POLLS = """
SELECT race_id, status, fetch_ms, transform_ms, write_ms, total_ms, quality_score, error_type, error_message,
    meetings_rows + races_rows + entrants_rows + race_pools_rows + money_flow_history_rows
        + odds_history_rows + race_results_rows AS rows
FROM race_polls
WHERE run_id = ANY (%(run_ids)s)
ORDER BY polled_at, race_id
"""
MOVERS = """
WITH observed AS (
    SELECT race_id, entrant_id,
        (array_agg(hold_percentage ORDER BY polling_timestamp))[1] AS share_before,
        (array_agg(hold_percentage ORDER BY polling_timestamp DESC))[1] AS share_now,
        (array_agg(win_pool_amount ORDER BY polling_timestamp DESC))[1] AS win_pool_cents
    FROM money_flow_history
    WHERE race_id = ANY (%(race_ids)s)
        AND polling_timestamp >= (SELECT min(polled_at) FROM race_polls WHERE run_id = ANY (%(run_ids)s))
    GROUP BY race_id, entrant_id
), ranked AS (
    SELECT observed.*, row_number() OVER (
            PARTITION BY race_id ORDER BY abs(share_now - share_before) DESC, share_now DESC, entrant_id
        ) AS place
    FROM observed
    WHERE share_now <> share_before
)
SELECT ranked.race_id, runner_number, entrants.name, share_before, share_now, win_pool_cents,
    fixed_win_odds AS fixed_win
FROM ranked JOIN entrants USING (entrant_id) JOIN races ON races.race_id = ranked.race_id
WHERE place <= 3 AND entrants.withdrawn_at IS NULL
ORDER BY races.start_time, ranked.race_id, place
"""


class NextRace(Record):
    """A race that is yet to start."""

    race_id: str
    title: str
    """Meeting and race number, for people."""
    start_time: datetime


class PollLine(Record):
    """One line of the ledger ``race_polls``; ``rows`` are those inserted or changed, over all tables."""

    race_id: str
    status: Status
    fetch_ms: int
    transform_ms: int
    write_ms: int
    total_ms: int
    rows: int
    quality_score: int | None
    error_type: str | None
    error_message: str | None


class Mover(Record):
    """A runner's share of the money, in percent, at its first and at its last poll of some runs."""

    race_id: str
    runner_number: int
    name: str
    share_before: Decimal
    share_now: Decimal
    win_pool_cents: int | None
    fixed_win: Decimal | None


def read_next_races(engine: Engine, *, after: datetime, limit: int) -> list[NextRace]:
    """The races that start first after an instant, at most ``limit``. Raises ``DatabaseError``."""
    return [NextRace(**row) for row in ask_engine(engine, NEXT_RACES, after=after, limit=limit)]


def read_polls(engine: Engine, run_ids: Sequence[str]) -> list[PollLine]:
    """The ledger of some runs, oldest poll first. Raises ``DatabaseError``."""
    return [PollLine(**row) for row in ask_engine(engine, POLLS, run_ids=list(run_ids))]


def read_movers(engine: Engine, race_ids: Sequence[str], run_ids: Sequence[str]) -> list[Mover]:
    """Per race, by start: the three runners whose share moved most since the first of the runs, the largest move first.
    Raises ``DatabaseError``."""
    return [Mover(**row) for row in ask_engine(engine, MOVERS, race_ids=list(race_ids), run_ids=list(run_ids))]
