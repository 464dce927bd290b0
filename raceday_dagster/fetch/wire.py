"""One race as ``/racing/events/{id}`` sends it: models only, their way into records is ``race_event``.

A field that becomes a record's field as it is has that field's name, and the API's as its alias. Left out on purpose:
``derivatives`` (entrants of other markets) and the ``favourite`` and ``mover`` objects, whose flags are wrong; the
runners' own flags count.
"""

from __future__ import annotations

from pydantic import Field

from raceday_dagster.fetch.envelope import WireHeader
from raceday_dagster.fetch.wire_fields import (
    Clock,
    Code,
    Dollars,
    Epoch,
    Flag,
    Fraction,
    Id,
    Label,
    Margin,
    Measure,
    Notes,
    OptionalId,
    Positive,
    Price,
    Prize,
    RequiredEpoch,
    Share,
    Text,
    Whole,
    Wire,
)
from raceday_dagster.racing.events import Category


class WirePrizeMonies(Wire):
    total_value: Prize | None = None


class WireRace(Wire):
    """``data.race``."""

    race_id: Id = Field(alias="event_id")
    meeting_id: Id
    meeting_name: Text
    name: Text = Field(alias="description")
    status: Text
    category: Category = Field(alias="type")
    country: Code
    start_time: RequiredEpoch = Field(alias="advertised_start")
    race_number: Positive
    state: Text | None = None
    actual_start: Epoch | None = None
    race_date_nz: Label | None = None
    start_time_nz: Clock | None = None
    start_type: Text | None = None
    distance: Whole | None = None
    track_condition: Text | None = None
    track_surface: Text | None = None
    track_direction: Text | None = None
    rail_position: Text | None = None
    weather: Text | None = None
    prize_monies: WirePrizeMonies | None = None
    entrant_count: Whole | None = None
    field_size: Whole | None = None
    positions_paid: Whole | None = None
    silk_url: Text | None = None
    video_channels: list[Text] | None = None
    protest: Flag | None = None
    protest_reason: Text | None = None


class WireOdds(Wire):
    fixed_win: Price | None = None
    fixed_place: Price | None = None
    pool_win: Price | None = None
    pool_place: Price | None = None


class WireDeduction(Wire):
    win: Fraction | None = None
    place: Fraction | None = None


class WireRunner(Wire):
    """One of ``data.runners``."""

    entrant_id: Id
    runner_number: Positive
    name: Text
    is_scratched: Flag
    barrier: Whole | None = None
    barrier_position: Text | None = None
    is_late_scratched: Flag | None = None
    is_emergency: Flag | None = None
    scratch_time: Epoch | None = None
    deduction: WireDeduction | None = None
    favourite: Flag | None = None
    mover: Flag | None = None
    jockey: Text | None = None
    trainer_name: Text | None = None
    silk_colours: Text | None = None
    silk_url_64x64: Text | None = None
    silk_url_128x128: Text | None = None
    alt_silk_url_64x64: Text | None = None
    alt_silk_url_128x128: Text | None = None
    runner_change: Notes | None = None
    odds: WireOdds | None = None


class WireTrackerRow(Wire):
    entrant_id: OptionalId
    hold_percentage: Share
    bet_percentage: Share


class WireTracker(Wire):
    """``data.money_tracker``: several rows an entrant."""

    entrants: list[WireTrackerRow] | None = None


class WireTotePool(Wire):
    """One of ``data.tote_pools``."""

    product_type: Text | None = None
    total: Dollars | None = None
    status: Text | None = None


class WirePosition(Wire):
    runner_number: Whole
    position: Whole


class WireDividend(Wire):
    """One of ``data.dividends``."""

    tote: Text | None = None
    product_name: Text | None = None
    status: Text | None = None
    dividend: Dollars | None = None
    pool_size: Dollars | None = None
    jackpot_size: Dollars | None = None
    positions: list[WirePosition] | None = None
    description: Text | None = None


class WireFinisher(Wire):
    """One of ``data.results``."""

    position: Whole
    runner_number: Positive
    entrant_id: OptionalId | None = None
    name: Text | None = None
    barrier: Whole | None = None
    margin_length: Margin | None = None
    positional_margin: Text | None = None
    winning_time: Measure | None = None
    time_ran: Measure | None = None


class WireData(Wire):
    """``data``: a missing list is not an empty one, except that there is no race without runners."""

    race: WireRace
    runners: list[WireRunner]
    money_tracker: WireTracker | None = None
    tote_pools: list[WireTotePool] | None = None
    dividends: list[WireDividend] | None = None
    results: list[WireFinisher] | None = None


class WireEvent(Wire):
    """The whole answer."""

    header: WireHeader | None = None
    data: WireData
