"""What a page shows, read from the views of the database in one read-only transaction, so that all of it is one moment.

Rows are mappings from a view's columns to its values; the views say what each column holds and in which unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError

from raceday_dagster.errors import DatabaseError
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.images import SILKS, Silk, find_silk, read_silks
from raceday_dagster.store.queries import is_listed
from raceday_dagster.store.schema.tables import POOL_TOTALS
from raceday_dagster.store.sql_errors import build_database_error
from raceday_dagster.store.transaction import connect_patiently

Row = Mapping[str, Any]

CONNECTIONS = 2
STATEMENT_TIMEOUT_MS = 3_000
SHOWN_SIGNALS = 40
SHOWN_POLLS = 12
OVERDUE_S = 900
DIVIDEND_ORDER = ("Pool Win", "Pool Place", "Pool Quinella", "Pool Exacta", "Pool Trifecta", "Pool First4")

_OPEN = f"SET LOCAL TIME ZONE 'UTC'; SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; SELECT now()"
# `poll_freshness` counts by 60 s where a race more than 65 minutes away is polled as seldom as FAR_INTERVAL_S says.
_RACES = """
SELECT card.*, fresh.polled_at, fresh.is_late AND (fresh.start_time < now() + interval '65 minutes'
        OR coalesce(fresh.seconds_since_answer > 3 * %(far_interval_s)s, true)) AS is_late,
    fresh.poll_status, fresh.error, fresh.interval_s,
    fresh.answered_at AS stored_at, placed.placings, coalesce(moved.alerts, 0) AS alerts
FROM race_card AS card
JOIN poll_freshness AS fresh USING (race_id)
LEFT JOIN LATERAL (
    SELECT string_agg(runner_number::text, '-' ORDER BY position, runner_number) AS placings
    FROM race_result WHERE race_result.race_id = card.race_id AND position <= 3
) AS placed ON true
LEFT JOIN LATERAL (
    SELECT count(DISTINCT (entrant_id, kind, time_interval))::integer AS alerts FROM market_signals AS signal
    WHERE signal.race_id = card.race_id AND signal.is_alert
) AS moved ON true
"""
RACE = _RACES + "WHERE card.race_id = %(race_id)s AND fresh.race_id = %(race_id)s"
DAY = (
    _RACES
    + """WHERE card.racing_day = %(racing_day)s AND fresh.racing_day = %(racing_day)s
ORDER BY card.start_time, card.meeting_name, card.race_number"""
)
NEIGHBOUR_DAYS = """
SELECT (SELECT max(racing_day) FROM races WHERE racing_day < %(racing_day)s) AS day_before,
    (SELECT min(racing_day) FROM races WHERE racing_day > %(racing_day)s) AS day_after
"""
NEIGHBOURS = """
SELECT race_id, meeting_id, meeting_name, race_number, start_time, status
FROM race_card WHERE racing_day = %(racing_day)s ORDER BY start_time, meeting_name, race_number, race_id
"""
RUNNERS = f"""
SELECT grid.*, silk.entrant_id IS NOT NULL AS has_silk, silk.title AS silk_title
FROM race_grid AS grid LEFT JOIN ({SILKS}) AS silk ON silk.entrant_id = grid.entrant_id
WHERE grid.race_id = %(race_id)s ORDER BY grid.runner_number, grid.entrant_id
"""  # noqa: S608  (a query of ours)
MONEY = "SELECT * FROM money_flow_timeline WHERE race_id = %(race_id)s ORDER BY time_interval DESC, runner_number"
PRICES = """
SELECT entrant_id, type, odds, seconds_to_start, quoted_at
FROM odds_timeline WHERE race_id = %(race_id)s ORDER BY quoted_at
"""
# By the start that is advertised now, as for prices: one that was put off would send the lines back on their axis.
_SECONDS_TO_START = "round(extract(epoch FROM %(start_time)s - polling_timestamp))::integer AS seconds_to_start"
SHARES = f"""
SELECT entrant_id, {_SECONDS_TO_START}, hold_percentage, polling_timestamp AS polled_at
FROM money_flow_history
WHERE racing_day = %(racing_day)s AND race_id = %(race_id)s
ORDER BY polling_timestamp
"""  # noqa: S608  (an expression of ours)
AT_START = "SELECT * FROM odds_at_start WHERE race_id = %(race_id)s ORDER BY runner_number"
RESULT = "SELECT * FROM race_result WHERE race_id = %(race_id)s ORDER BY position, runner_number"
DIVIDENDS = "SELECT dividends FROM race_results WHERE race_id = %(race_id)s"
POOLS = f"""
SELECT polling_timestamp AS polled_at, {_SECONDS_TO_START}, {", ".join(POOL_TOTALS)}
FROM pool_history
WHERE racing_day = %(racing_day)s AND race_id = %(race_id)s
ORDER BY polling_timestamp
"""  # noqa: S608  (names of ours)
# A signal that lasts several polls of an interval is one line, as it last stood. Only those that are shown are joined
# with their runners: the planner would read the runners of every day for all of them.
_SIGNALS = f"""
SELECT signal.race_id, signal.entrant_id, entrant.runner_number, entrant.name, card.meeting_name, card.race_number,
    signal.kind, signal.polling_timestamp AS polled_at, signal.compared_with,
    signal.time_to_start_s AS seconds_to_start, signal.value_before, signal.value_now, signal.change, signal.tier,
    signal.is_alert, signal.is_strong, signal.after_scratching
FROM (
    SELECT * FROM (
        SELECT DISTINCT ON (race_id, entrant_id, kind, time_interval) * FROM market_signals
        WHERE {{}} ORDER BY race_id, entrant_id, kind, time_interval, polling_timestamp DESC
    ) AS lasting ORDER BY polling_timestamp DESC, abs(change) DESC, entrant_id, kind LIMIT {SHOWN_SIGNALS}
) AS signal
JOIN entrants AS entrant USING (entrant_id)
JOIN race_card AS card ON card.race_id = signal.race_id
"""  # noqa: S608  (a number of ours)
_NEWEST_FIRST = "ORDER BY signal.polling_timestamp DESC, abs(signal.change) DESC, entrant.runner_number, signal.kind\n"
RACE_SIGNALS = _SIGNALS.format("race_id = %(race_id)s") + _NEWEST_FIRST
DAY_SIGNALS = _SIGNALS.format("racing_day = %(racing_day)s AND is_alert") + _NEWEST_FIRST
POLLS = f"""
SELECT run_id, polled_at, status, fetch_ms, transform_ms, write_ms, total_ms, lane, due_at, error_stage, error_message,
    round(1000 * extract(epoch FROM polled_at - due_at))::integer AS late_ms,
    meetings_rows + races_rows + entrants_rows + race_pools_rows + money_flow_history_rows
        + odds_history_rows + race_results_rows AS rows
FROM race_polls WHERE race_id = %(race_id)s ORDER BY race_polls.polled_at DESC LIMIT {SHOWN_POLLS}
"""  # noqa: S608  (a number of ours)
POLLS_SINCE = "SELECT race_id, polled_at, status FROM race_polls WHERE polled_at > %(since)s ORDER BY polled_at"
SILENT = """
SELECT race_id, race, start_time, status, answered_at, seconds_since_answer, error
FROM poll_freshness
WHERE is_late AND (start_time < now() + interval '65 minutes'
        OR coalesce(seconds_since_answer > 3 * %(far_interval_s)s, true))
    AND racing_day BETWEEN %(racing_day)s - 1 AND %(racing_day)s + 1
ORDER BY start_time, race_id
"""


@dataclass(frozen=True)
class DayView:
    """A racing day at one moment."""

    now: datetime
    racing_day: date
    today: date
    """The racing day that is under way."""
    is_listed: bool
    """Whether the list of the day was stored."""
    day_before: date | None
    day_after: date | None
    """The nearest days with races, if any."""
    races: list[Row]
    """By start: ``race_card`` with freshness, placings and the number of alerts."""
    signals: list[Row]
    """Alerts, the newest first."""

    @property
    def meetings(self) -> list[list[Row]]:
        """The races of each meeting by number, the meeting that begins first first."""
        grouped: dict[str, list[Row]] = {}
        for race in self.races:
            grouped.setdefault(race["meeting_id"], []).append(race)
        return [sorted(races, key=lambda race: int(race["race_number"])) for races in grouped.values()]

    @property
    def next_races(self) -> list[Row]:
        """Those that are open and not long overdue, the earliest start first."""
        return [race for race in self.races if race["status"] == "open" and race["seconds_to_start"] > -OVERDUE_S]


@dataclass(frozen=True)
class RaceView:
    """A race at one moment; each list is what its view or table says of it."""

    now: datetime
    race: Row
    runners: list[Row]
    money: list[Row]
    prices: list[Row]
    shares: list[Row]
    at_start: list[Row]
    pools: list[Row]
    signals: list[Row]
    result: list[Row]
    dividends: list[Row]
    polls: list[Row]
    neighbours: list[Row]
    """The races of the day by start, this one among them."""

    def find_neighbour(self, step: int) -> Row | None:
        """The race before (-1) or after (1) by start."""
        position = [row["race_id"] for row in self.neighbours].index(self.race["race_id"]) + step
        return self.neighbours[position] if 0 <= position < len(self.neighbours) else None

    @property
    def meeting(self) -> list[Row]:
        """The races of the same meeting, by number."""
        same = [row for row in self.neighbours if row["meeting_id"] == self.race["meeting_id"]]
        return sorted(same, key=lambda row: int(row["race_number"]))


class MarketReader:
    """Reads what the pages show, over at most two connections that cannot write.

    Every method raises ``DatabaseError`` when the database cannot be used.
    """

    def __init__(self, database_url: SecretStr | str, far_interval_s: int = 60) -> None:
        self._far = {"far_interval_s": far_interval_s}
        engine = build_engine(database_url, pool_max=CONNECTIONS)
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def close(self) -> None:
        """Closes the connections; the next read opens others."""
        self._engine.dispose()

    def read_day(self, racing_day: date | None = None) -> DayView:
        """A racing day; without one, that which is under way."""
        with self._reading() as (connection, now):
            today = choose_current_racing_day(now)
            racing_day = racing_day or today
            values = {"racing_day": racing_day}
            return DayView(
                now=now,
                racing_day=racing_day,
                today=today,
                is_listed=is_listed(connection, racing_day),
                **_ask(connection, NEIGHBOUR_DAYS, values)[0],
                races=_ask(connection, DAY, values | self._far),
                signals=_ask(connection, DAY_SIGNALS, values),
            )

    def read_race(self, race_id: str) -> RaceView | None:
        """A race; ``None`` for one that is not stored."""
        if "\x00" in race_id:
            return None  # PostgreSQL could not even be asked
        with self._reading() as (connection, now):
            found = _ask(connection, RACE, {"race_id": race_id, **self._far})
            if not found:
                return None
            values = {"race_id": race_id, **{name: found[0][name] for name in ("racing_day", "start_time")}}
            dividends = _ask(connection, DIVIDENDS, values)
            return RaceView(
                now=now,
                race=found[0],
                runners=_ask(connection, RUNNERS, {**values, "entrant_id": None}),
                money=_ask(connection, MONEY, values),
                prices=_ask(connection, PRICES, values),
                shares=_ask(connection, SHARES, values),
                at_start=_ask(connection, AT_START, values),
                pools=_ask(connection, POOLS, values),
                signals=_ask(connection, RACE_SIGNALS, values),
                result=_ask(connection, RESULT, values),
                dividends=_choose_dividends(dividends[0]["dividends"] if dividends else []),
                polls=_ask(connection, POLLS, values),
                neighbours=_ask(connection, NEIGHBOURS, values),
            )

    def find_silk(self, entrant_id: str) -> Silk | None:
        """Our copy of the silk of a runner; ``None`` without one."""
        return None if "\x00" in entrant_id else find_silk(self._engine, entrant_id)

    def read_silks(self, race_id: str) -> dict[str, Silk]:
        """Our copies of the silks of a race, by entrant."""
        return read_silks(self._engine, race_id)

    def read_polls_since(self, since: datetime) -> list[Row]:
        """The polls of the ledger after an instant: race, instant and status, the oldest first."""
        with self._reading() as (connection, _now):
            return _ask(connection, POLLS_SINCE, {"since": since})

    def read_health(self) -> dict[str, Any]:
        """Whether the day is loaded, and the followed races without a new answer for three intervals."""
        with self._reading() as (connection, now):
            today = choose_current_racing_day(now)
            return {
                "now": now,
                "racing_day": today,
                "is_listed": is_listed(connection, today),
                "races_without_answer": _ask(connection, SILENT, {"racing_day": today, **self._far}),
            }

    def notify(self, channel: str) -> None:
        """Sends an empty notification, by which a listener learns whether it would hear any."""
        with self._reading() as (connection, _now):
            connection.exec_driver_sql("SELECT pg_notify(%(channel)s, '')", {"channel": channel})
            connection.commit()

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, datetime]]:
        """A transaction, and the clock of the database when it began."""
        try:
            with connect_patiently(self._engine) as connection:
                yield connection, connection.exec_driver_sql(_OPEN).scalar_one().astimezone(UTC)
        except CheckoutTimeoutError as error:
            raise DatabaseError(f"the {CONNECTIONS} connections of the pages are in use: try again soon") from error
        except SQLAlchemyError as error:
            raise build_database_error(self._engine, error) from error


def _choose_dividends(listed: list[Row]) -> list[Row]:
    """A final race carries each dividend twice, interim and final: the final ones, where there are any, the largest
    pools first. The feed may leave each field out."""
    final = [row for row in listed if str(row.get("status", "")).lower() == "final"]
    ranks = {name: rank for rank, name in enumerate(DIVIDEND_ORDER)}
    return [
        {
            "product_name": row.get("product_name"),
            "runners": row.get("description"),
            "dividend": None if row.get("dividend") is None else Decimal(row["dividend"]),
        }
        for row in sorted(final or listed, key=lambda row: ranks.get(row.get("product_name", ""), len(ranks)))
    ]


def _ask(connection: Connection, question: str, values: Mapping[str, Any]) -> list[Row]:
    """The rows by column name, their instants in UTC."""
    return [
        {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in connection.exec_driver_sql(question, dict(values)).mappings()
    ]
