"""What one poll of one race came to: the output of the transform stage and the input of the write stage.

The fields of each row are columns of the table it is named after. A field that is not set is left out of the
statement, so it can never erase what is stored (see ``records.Record``). Money is in integer cents, shares are in
percent with two decimals, instants are aware UTC.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from raceday_dagster.racing.events import Category, RaceFields, RaceStatus, RunnerFields
from raceday_dagster.racing.records import Record

RaceType = Literal["thoroughbred", "harness", "greyhound"]
OddsType = Literal["fixed_win", "fixed_place", "pool_win", "pool_place"]
IntervalType = Literal["5m", "2m", "30s", "live"]
ResultStatus = Literal["interim", "final", "protest"]
PoolSource = Literal["tote_pools", "dividends"]

RACE_TYPES: dict[Category, RaceType] = {"T": "thoroughbred", "H": "harness", "G": "greyhound"}


class MeetingRow(Record):
    """A row of ``meetings`` as far as a race payload knows it. ``racing_day`` and ``status`` are never set here:
    the first belongs to the meetings list, the second is derived from the meeting's races by the store."""

    meeting_id: str
    meeting_name: str = ""
    country: str
    category: Category
    race_type: RaceType
    state: str | None = None
    track_condition: str | None = None
    track_surface: str | None = None
    track_direction: str | None = None
    rail_position: str | None = None
    weather: str | None = None


class RaceRow(RaceFields):
    """A row of ``races``. ``status`` is not set when the payload's text is unknown: the stored one stays."""

    type: Category
    status: RaceStatus = "open"


class EntrantRow(RunnerFields):
    """A row of ``entrants``: what the payload lists, and the runner's share of the money at this poll."""

    race_id: str
    fixed_win_odds: Decimal | None = None
    fixed_place_odds: Decimal | None = None
    pool_win_odds: Decimal | None = None
    pool_place_odds: Decimal | None = None
    hold_percentage: Decimal | None = None
    bet_percentage: Decimal | None = None
    win_pool_percentage: Decimal | None = None
    place_pool_percentage: Decimal | None = None
    win_pool_amount: int | None = None
    place_pool_amount: int | None = None


class PoolsRow(Record):
    """A row of ``race_pools``, in cents. The total of a product the answer did not list is not set; one that was
    abandoned is 0. ``total_race_pool`` counts the single-race products the answer did list."""

    win_pool_total: int = 0
    place_pool_total: int = 0
    quinella_pool_total: int = 0
    trifecta_pool_total: int = 0
    exacta_pool_total: int = 0
    first4_pool_total: int = 0
    total_race_pool: int = 0
    multi_leg_pool_total: int = 0
    source: PoolSource
    data_quality_score: int
    extracted_pools: int


class ResultsRow(Record):
    """A row of ``race_results``. ``results`` and ``dividends`` are JSON lists; ``fixed_odds`` maps the runner number
    (text) to the fixed prices at the time, for the runners whose prices the answer carried."""

    result_status: ResultStatus
    results: tuple[dict[str, Any], ...] = ()
    dividends: tuple[dict[str, Any], ...] = ()
    fixed_odds: dict[str, dict[str, Any]] = Field(default_factory=dict)
    protest_lodged: bool = False
    result_time: datetime


class MoneyFlowRow(Record):
    """A row of ``money_flow_history`` without what only the database knows: the racing day and the increments.

    A ``None`` amount means that the pool was unknown; a ``None`` percentage that the pool was empty.
    """

    entrant_id: str
    hold_percentage: Decimal
    bet_percentage: Decimal
    win_pool_amount: int | None
    place_pool_amount: int | None
    total_pool_amount: int | None
    win_pool_percentage: Decimal | None
    place_pool_percentage: Decimal | None
    fixed_win_odds: Decimal | None
    fixed_place_odds: Decimal | None
    pool_win_odds: Decimal | None
    pool_place_odds: Decimal | None


class OddsRow(Record):
    """A price that exists now; the store keeps it in ``odds_history`` only if it differs from the last one kept."""

    entrant_id: str
    type: OddsType
    odds: Decimal


VALID_FROM = 80
"""The least score of an answer that counts as valid."""


class Quality(Record):
    """How far the payload can be trusted: 0 to 100, valid from ``VALID_FROM``. It never fails a race."""

    score: int
    valid: bool
    warnings: tuple[str, ...] = ()


class RaceSnapshot(Record):
    """One race at one poll, ready to be written in one transaction."""

    race_id: str
    event_timestamp: datetime
    """When the feed made the answer: orders the answers of a race."""
    polling_timestamp: datetime
    """When the answer reached us: the identity of the poll."""
    time_to_start_s: int
    """Advertised start minus ``event_timestamp``; negative after the start."""
    time_interval: Decimal
    """Minutes, the bucket of ``time_to_start_s``."""
    interval_type: IntervalType
    meeting: MeetingRow
    race: RaceRow
    entrants: tuple[EntrantRow, ...]
    has_unreadable_runner: bool = False
    """The answer listed more than ``entrants``: nobody is known to be gone."""
    pools: PoolsRow | None
    results: ResultsRow | None
    money_flow: tuple[MoneyFlowRow, ...]
    odds: tuple[OddsRow, ...]
    quality: Quality
