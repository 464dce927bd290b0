"""The market of some races as signals are found in it, and the signals that were: two statements to read, one to write.

Each race is read from its own partition and for a few minutes only, runner by runner, so that a race polled all day
costs no more than one that has just begun.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from raceday_dagster.racing.records import Record
from raceday_dagster.racing.signals import (
    ARRIVES_WITHIN,
    PRICE_LOOK_BACK,
    Market,
    MarketPoll,
    Runner,
    Seen,
    Signal,
    Thresholds,
    choose_look_back,
    find_signals,
)
from raceday_dagster.racing.snapshots import VALID_FROM
from raceday_dagster.store.schema.tables import market_signals
from raceday_dagster.store.transaction import Transaction

READ_RACES = """
SELECT race.race_id, meeting.meeting_name || ' R' || race.race_number AS title, race.racing_day,
    ARRAY(
        SELECT poll.polled_at FROM race_polls AS poll
        WHERE poll.race_id = race.race_id AND poll.quality_score < %(valid_from)s
            AND poll.polled_at BETWEEN least(asked.since, asked.price_since) AND asked.polled_at
    ) AS doubtful,
    (
        SELECT jsonb_agg(jsonb_build_object(
            'entrant_id', entrant_id, 'number', runner_number, 'name', name, 'is_scratched', is_scratched,
            'scratched_at', scratched_at, 'withdrawn_at', withdrawn_at
        )) FROM entrants WHERE entrants.race_id = race.race_id
    ) AS entrants
FROM jsonb_to_recordset(%(asked)s::jsonb) AS asked (
    race_id text, polled_at timestamptz, since timestamptz, price_since timestamptz
)
JOIN races AS race ON race.race_id = asked.race_id
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
ORDER BY race.race_id
"""
READ_FLOW = """
SELECT flow.race_id, flow.polling_timestamp, flow.event_timestamp, flow.time_to_start_s, flow.time_interval,
    flow.entrant_id, flow.hold_percentage, flow.fixed_win_odds,
    coalesce(flow.incremental_win_amount, 0) + coalesce(flow.incremental_place_amount, 0) AS money_cents,
    flow.is_baseline
FROM jsonb_to_recordset(%(asked)s::jsonb) AS asked (
    race_id text, polled_at timestamptz, since timestamptz, price_since timestamptz, price_until timestamptz
)
JOIN races AS race ON race.race_id = asked.race_id
JOIN entrants AS entrant ON entrant.race_id = race.race_id
CROSS JOIN LATERAL (
    SELECT * FROM money_flow_history AS history
    WHERE history.racing_day = race.racing_day AND history.race_id = race.race_id
        AND history.entrant_id = entrant.entrant_id
        AND history.polling_timestamp BETWEEN asked.since AND asked.polled_at
    UNION ALL
    SELECT * FROM money_flow_history AS history
    WHERE history.racing_day = race.racing_day AND history.race_id = race.race_id
        AND history.entrant_id = entrant.entrant_id
        AND history.polling_timestamp BETWEEN asked.price_since AND asked.price_until
) AS flow
ORDER BY flow.race_id, flow.polling_timestamp
"""
_COLUMNS = tuple(column.name for column in market_signals.columns if column.name != "created_at")
# Listeners of the channel `raceday` hear of it once, when it is committed, however often it is computed.
ADD_SIGNALS = "\n".join(
    (
        "WITH added AS (",
        f"INSERT INTO market_signals ({', '.join(_COLUMNS)})",
        f"SELECT {', '.join(_COLUMNS)}",
        "FROM jsonb_populate_recordset(NULL::market_signals, %(rows)s::jsonb)",
        "ORDER BY race_id, polling_timestamp, entrant_id, kind",
        "ON CONFLICT DO NOTHING",
        "RETURNING race_id, polling_timestamp)",
        "SELECT pg_notify('raceday', json_build_object(",
        "'race_id', race_id, 'polled_at', polling_timestamp, 'status', 'signals')::text)",
        "FROM (SELECT DISTINCT race_id, polling_timestamp FROM added) AS announced",
    )
)


class StoredPoll(Record):
    """A poll whose answer is stored, and whose race may have moved."""

    race_id: str
    polled_at: datetime
    start_time: datetime


def add_signals(transaction: Transaction, polls: Iterable[StoredPoll], thresholds: Thresholds) -> list[Signal]:
    """Finds the signals of some polls, at most one of a race, in what is stored of their races, and stores them; a
    second time adds nothing. Returns them by race."""
    markets = read_markets(transaction, list(polls), thresholds)
    signals = [signal for market in markets for signal in find_signals(market, thresholds)]
    if signals:
        rows = [signal.model_dump(mode="json", include=set(_COLUMNS)) for signal in signals]
        transaction.run("market_signals", ADD_SIGNALS, {"rows": json.dumps(rows)})
    return signals


def read_markets(transaction: Transaction, polls: Sequence[StoredPoll], thresholds: Thresholds) -> list[Market]:
    """What is stored of these polls and of the minutes before each, by race. A poll that stored no money, because it
    brought nothing new, is left out."""
    asked = json.dumps([_bound(poll, thresholds) for poll in polls])
    races = transaction.run("races", READ_RACES, {"asked": asked, "valid_from": VALID_FROM}).all()
    doubtful = {race.race_id: set(race.doubtful) for race in races}
    stored: dict[str, dict[datetime, MarketPoll]] = {race_id: {} for race_id in doubtful}
    for row in transaction.run("money_flow_history", READ_FLOW, {"asked": asked}):
        race_id, polled_at, generated_at, to_start_s, interval, entrant_id, *seen = tuple(row)
        of_race = stored[race_id]
        if polled_at not in of_race:
            is_valid = polled_at not in doubtful[race_id]
            of_race[polled_at] = MarketPoll(polled_at, generated_at, to_start_s, interval, is_valid, {})
        of_race[polled_at].runners[entrant_id] = Seen(*seen)
    newest = {poll.race_id: poll.polled_at for poll in polls}
    return [
        _build_market(race, tuple(stored[race.race_id].values()))
        for race in races
        if newest[race.race_id] in stored[race.race_id]
    ]


def _bound(poll: StoredPoll, thresholds: Thresholds) -> dict[str, str | None]:
    """Which polls are read: back to ``since``, and those from which the price is compared where that is earlier."""
    since = poll.polled_at - choose_look_back(poll.start_time - poll.polled_at)
    price_until = poll.polled_at - PRICE_LOOK_BACK + ARRIVES_WITHIN
    price_since = price_until - timedelta(seconds=thresholds.longest_gap_s) - 2 * ARRIVES_WITHIN
    price = (price_since.isoformat(), price_until.isoformat()) if since > price_until else (None, None)
    return {
        "race_id": poll.race_id,
        "polled_at": poll.polled_at.isoformat(),
        "since": since.isoformat(),
        **dict(zip(("price_since", "price_until"), price, strict=True)),
    }


def _build_market(race: Row[Any], polls: Sequence[MarketPoll]) -> Market:
    entrants = race.entrants or []
    return Market(
        race_id=race.race_id,
        title=race.title,
        racing_day=race.racing_day,
        polls=polls,
        runners={
            entrant["entrant_id"]: Runner(entrant["number"], entrant["name"])
            for entrant in entrants
            if not entrant["is_scratched"] and entrant["withdrawn_at"] is None
        },
        scratchings=[
            datetime.fromisoformat(entrant[name])
            for entrant in entrants
            for name in ("scratched_at", "withdrawn_at")
            if entrant[name] is not None
        ],
    )
