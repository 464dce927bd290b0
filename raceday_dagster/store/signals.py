"""The market of some races as signals are found in it, and the signals that were: two statements to read, one to write.

Each race is read from its own partition and for a few minutes only, runner by runner, so that a race polled all day
costs no more than one that has just begun.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row

from raceday_dagster.racing.records import Record
from raceday_dagster.racing.signals import (
    ARRIVES_WITHIN,
    PRICE_LOOK_BACK,
    Market,
    MarketPoll,
    RunnerName,
    Seen,
    Signal,
    Thresholds,
    choose_look_back,
    find_signals,
)
from raceday_dagster.racing.snapshots import VALID_FROM
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
# The days are constants, so that the other partitions are not even planned. A row a poll: the server makes one text of
# its runners faster than the client reads a row for each.
READ_FLOW = """
SELECT flow.race_id, flow.polling_timestamp, min(flow.event_timestamp), min(flow.time_to_start_s),
    min(flow.time_interval),
    json_agg(json_build_array(
        flow.entrant_id, (100 * flow.hold_percentage)::integer, (100 * flow.fixed_win_odds)::integer,
        coalesce(flow.incremental_win_amount, 0) + coalesce(flow.incremental_place_amount, 0), flow.is_baseline
    ))
FROM jsonb_to_recordset(%(asked)s::jsonb) AS asked (
    race_id text, polled_at timestamptz, since timestamptz, price_since timestamptz, price_until timestamptz
)
JOIN races AS race ON race.race_id = asked.race_id
JOIN entrants AS entrant ON entrant.race_id = race.race_id
CROSS JOIN LATERAL (
    SELECT * FROM money_flow_history AS history
    WHERE history.racing_day = ANY (%(days)s) AND history.racing_day = race.racing_day
        AND history.race_id = race.race_id AND history.entrant_id = entrant.entrant_id
        AND history.polling_timestamp BETWEEN asked.since AND asked.polled_at
    UNION ALL
    (SELECT * FROM money_flow_history AS history
    WHERE history.racing_day = ANY (%(days)s) AND history.racing_day = race.racing_day
        AND history.race_id = race.race_id AND history.entrant_id = entrant.entrant_id
        AND history.polling_timestamp BETWEEN asked.price_since AND asked.price_until
    ORDER BY history.polling_timestamp DESC LIMIT 1)
) AS flow
GROUP BY flow.race_id, flow.polling_timestamp
ORDER BY flow.race_id, flow.polling_timestamp
"""
_NAMES = {"race", "runner_number", "runner"}
_COLUMNS = tuple(name for name in Signal.model_fields if name not in _NAMES)
# What was said of a runner stays true for a while: only another tier, or the other way, is news within five minutes.
ADD_SIGNALS = "\n".join(
    (
        "WITH added AS (",
        f"INSERT INTO market_signals ({', '.join(_COLUMNS)})",
        f"SELECT {', '.join(_COLUMNS)}",
        "FROM jsonb_populate_recordset(NULL::market_signals, %(rows)s::jsonb)",
        "ORDER BY race_id, polling_timestamp, entrant_id, kind",
        "ON CONFLICT DO NOTHING",
        "RETURNING race_id, polling_timestamp, entrant_id, kind, tier, change)",
        "SELECT race_id, entrant_id, kind, NOT EXISTS (",
        "SELECT FROM market_signals AS earlier",
        "WHERE earlier.race_id = added.race_id",
        "AND earlier.polling_timestamp >= added.polling_timestamp - interval '5 minutes'",
        "AND earlier.polling_timestamp < added.polling_timestamp",
        "AND earlier.entrant_id = added.entrant_id AND earlier.kind = added.kind AND earlier.tier = added.tier",
        "AND sign(earlier.change) = sign(added.change)) AS is_news",
        "FROM added",
    )
)
# Listeners of the channel `raceday` hear of it once, when it is committed, however often it is computed.
ANNOUNCE = """
SELECT pg_notify('raceday', json_build_object('race_id', race_id, 'polled_at', polled_at, 'status', 'signals')::text)
FROM jsonb_to_recordset(%(polls)s::jsonb) AS poll (race_id text, polled_at timestamptz)
"""


class StoredPoll(Record):
    """A poll whose answer is stored, and whose race may have moved."""

    race_id: str
    polled_at: datetime
    start_time: datetime


class FoundSignals(NamedTuple):
    """The signals of some polls, and those of them that are new and that nobody was told of before."""

    signals: Sequence[Signal]
    news: Sequence[Signal]


def add_signals(transaction: Transaction, polls: Sequence[StoredPoll], thresholds: Thresholds) -> FoundSignals:
    """Finds the signals of some polls, at most one of a race, in what is stored of their races, stores them, and
    announces the polls that have some. A second time it adds, announces and calls news nothing."""
    markets = read_markets(transaction, polls, thresholds)
    signals = [signal for market in markets for signal in find_signals(market, thresholds)]
    if not signals:
        return FoundSignals(signals, news=[])
    rows = [signal.model_dump(mode="json", exclude=_NAMES) for signal in signals]
    added = transaction.run("market_signals", ADD_SIGNALS, {"rows": json.dumps(rows)}).all()
    news = {(row.race_id, row.entrant_id, row.kind) for row in added if row.is_news}
    with_signals = {row.race_id for row in added}
    announced = [poll.model_dump(mode="json") for poll in polls if poll.race_id in with_signals]
    transaction.run("announce", ANNOUNCE, {"polls": json.dumps(announced)})
    return FoundSignals(
        signals, [signal for signal in signals if (signal.race_id, signal.entrant_id, signal.kind) in news]
    )


def read_markets(transaction: Transaction, polls: Sequence[StoredPoll], thresholds: Thresholds) -> list[Market]:
    """What is stored of these polls and of the minutes before each, by race. A poll that stored no money, because it
    brought nothing new, is left out."""
    asked = json.dumps([_bound(poll, thresholds) for poll in polls])
    races = transaction.run("races", READ_RACES, {"asked": asked, "valid_from": VALID_FROM}).all()
    values = {"asked": asked, "days": sorted({race.racing_day for race in races})}
    flow = transaction.run("money_flow_history", READ_FLOW, values).all() if races else []
    doubtful = {(race.race_id, polled_at) for race in races for polled_at in race.doubtful}
    stored: dict[str, list[MarketPoll]] = {race.race_id: [] for race in races}
    for race_id, polled_at, generated_at, to_start_s, interval, runners in map(tuple, flow):
        is_valid = (race_id, polled_at) not in doubtful
        seen = {entrant_id: Seen(*of_runner) for entrant_id, *of_runner in runners}
        stored[race_id].append(MarketPoll(polled_at, generated_at, to_start_s, interval, is_valid, seen))
    newest = {poll.race_id: poll.polled_at for poll in polls}
    markets = [_build_market(race, stored[race.race_id]) for race in races]
    return [market for market in markets if market.polls and market.polls[-1].polled_at == newest[market.race_id]]


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
            entrant["entrant_id"]: RunnerName(entrant["number"], entrant["name"])
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
