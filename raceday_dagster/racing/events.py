"""What the API said, in our words: the input of the transform stage.

Field names are the columns of the tables wherever a field is stored as it came. Instants are aware
UTC, odds are decimal odds, money is in dollars (``Decimal``) as the feed sends it; cents are made by the transform.
Nothing here is computed. An optional field that is not set was not in the payload (see ``records.Record``); a name that
was blank there is not set either.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal, Self, get_args

from raceday_dagster.racing.records import Record

Category = Literal["T", "H", "G"]
RaceStatus = Literal["open", "closed", "interim", "final", "abandoned"]

STATUSES: frozenset[str] = frozenset(get_args(RaceStatus))
TERMINAL_STATUSES: frozenset[str] = frozenset({"final", "abandoned"})
"""Statuses after which a race is no longer polled: closed and interim are not among them."""


class Odds(Record):
    """Current prices of a runner. Not set: the key was absent. ``None``: the feed says there is no price (0)."""

    fixed_win: Decimal | None = None
    fixed_place: Decimal | None = None
    pool_win: Decimal | None = None
    pool_place: Decimal | None = None


class RunnerFields(Record):
    """What is stored of a runner as it came."""

    entrant_id: str
    runner_number: int
    name: str = ""
    is_scratched: bool
    barrier: int | None = None
    barrier_position: str | None = None
    is_late_scratched: bool | None = None
    is_emergency: bool | None = None
    scratched_at: datetime | None = None
    deduction_win: Decimal | None = None
    deduction_place: Decimal | None = None
    favourite: bool | None = None
    mover: bool | None = None
    jockey: str | None = None
    trainer_name: str | None = None
    silk_colours: str | None = None
    silk_url_64x64: str | None = None
    silk_url_128x128: str | None = None
    alt_silk_url_64x64: str | None = None
    alt_silk_url_128x128: str | None = None
    runner_change: dict[str, str] | None = None


class Runner(RunnerFields):
    """One entrant of the race as the payload lists it, scratched ones included."""

    odds: Odds = Odds()


class TrackerRow(Record):
    """One row of the money tracker: a part of an entrant's share. An entrant has several; its share is their sum.
    A row without an id is nobody's."""

    entrant_id: str = ""
    hold_percentage: Decimal
    bet_percentage: Decimal


class TotePool(Record):
    """One tote product on the race. ``total`` in dollars; ``status`` upper case as sent."""

    product_type: str | None = None
    total: Decimal | None = None
    status: str | None = None


class Dividend(Record):
    """One declared dividend. ``dividend`` per 1-dollar unit, ``pool_size`` in dollars."""

    tote: str | None = None
    product_name: str | None = None
    status: str | None = None
    dividend: Decimal | None = None
    pool_size: Decimal | None = None
    jackpot_size: Decimal | None = None
    positions: tuple[dict[str, Any], ...] = ()
    description: str | None = None


class Finisher(Record):
    """One line of the results. Dead heats repeat ``position`` and skip the next."""

    position: int
    runner_number: int
    entrant_id: str | None = None
    name: str | None = None
    barrier: int | None = None
    margin_length: Decimal | None = None
    """Lengths behind the winner."""
    positional_margin: str | None = None
    """To the one before, in the words of the course."""
    winning_time: Decimal | None = None
    time_ran: Decimal | None = None
    """Seconds, as ``winning_time``."""


class RaceFields(Record):
    """What is stored of a race as it came."""

    race_id: str
    meeting_id: str
    name: str = ""
    race_number: int
    start_time: datetime
    actual_start: datetime | None = None
    """As sent; while the race is open the feed repeats the advertised start here."""
    race_date_nz: date | None = None
    start_time_nz: time | None = None
    start_type: str | None = None
    distance: int | None = None
    """Metres."""
    track_condition: str | None = None
    track_surface: str | None = None
    weather: str | None = None
    total_prize_money: Decimal | None = None
    """Dollars."""
    entrant_count: int | None = None
    field_size: int | None = None
    positions_paid: int | None = None
    silk_url: str | None = None
    video_channels: tuple[str, ...] | None = None
    protest: bool | None = None
    protest_reason: str | None = None


class RaceEvent(RaceFields):
    """One validated answer for one race."""

    meeting_name: str = ""
    status: str
    """Lower case as sent; may be a text this code does not know."""
    category: Category
    country: str
    generated_at: datetime
    """When the feed made the answer; ``received_at`` if the feed did not say."""
    received_at: datetime
    """Our clock when the whole answer had arrived: the identity of the poll."""
    state: str | None = None
    track_direction: str | None = None
    rail_position: str | None = None
    runners: tuple[Runner, ...] = ()
    has_unreadable_runner: bool = False
    """A runner of the answer was dropped, so ``runners`` does not say who is gone."""
    tracker: tuple[TrackerRow, ...] | None = None
    """``None`` when the answer has no money tracker: nothing is known, which is not a share of 0."""
    tote_pools: tuple[TotePool, ...] | None = None
    dividends: tuple[Dividend, ...] | None = None
    results: tuple[Finisher, ...] | None = None
    warnings: tuple[str, ...] = ()
    """What could not be read of the answer and was dropped, and what else makes it doubtful: for its quality."""


class ListedMeeting(Record):
    """A meeting of the day's list. ``racing_day`` is the label the TAB prints on it, not a calendar computation."""

    meeting_id: str
    meeting_name: str = ""
    racing_day: date
    category: Category
    country: str
    category_name: str | None = None
    state: str | None = None
    track_condition: str | None = None
    tote_meeting_number: int | None = None
    tote_raceday_date: date | None = None
    tote_status: str | None = None
    video_channels: tuple[str, ...] | None = None


class ListedRace(Record):
    """A race of the day's list: enough to schedule its polls."""

    race_id: str
    meeting_id: str
    racing_day: date
    name: str = ""
    race_number: int
    start_time: datetime
    category: Category
    status: str | None = None
    tote_start_time: str | None = None
    """A 30-hour clock, ``"25:38:00"`` is 01:38 on the next calendar day: text, no time type holds it."""
    distance: int | None = None
    track_condition: str | None = None
    weather: str | None = None
    protest: bool | None = None
    protest_reason: str | None = None


class Rejected(Record):
    """A meeting of the list that could not be read; it costs only itself."""

    meeting_id: str | None
    reason: str


class RacingDay(Record):
    """All meetings and races the API lists for one racing day, every page of it."""

    racing_day: date
    generated_at: datetime
    meetings: tuple[ListedMeeting, ...]
    races: tuple[ListedRace, ...]
    rejected: tuple[Rejected, ...] = ()
    dropped: tuple[str, ...] = ()
    """Fields that could not be read, as ``meeting id: path``."""

    def select_meetings(self, *, countries: Collection[str], categories: Collection[str]) -> Self:
        """The day with only the meetings of these countries and categories, and only their races.

        A race goes with its meeting: one whose meeting is not listed is dropped. Rejected meetings stay reported, for
        nobody knows where they would have belonged.
        """
        meetings = tuple(
            meeting for meeting in self.meetings if meeting.country in countries and meeting.category in categories
        )
        selected = {meeting.meeting_id for meeting in meetings}
        races = tuple(race for race in self.races if race.meeting_id in selected)
        return self.model_copy(update={"meetings": meetings, "races": races})
