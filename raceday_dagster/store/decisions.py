"""What an answer may change, given what is stored: pure, and the same rules for a poll and for the day's list.

Two clocks: the feed's (``generated_at``, ``api_generated_time``, ``finalized_at`` …) orders answers; ours
(``last_poll_time``) says when we asked. ``races.api_generated_time`` is the time of the newest poll, or of the list as
long as the race was never polled: a list says little, so it never makes a poll stale.

The feed's time decides alone which of two answers is the newer, not the order of their arrival: two processes may poll
one race, and the slower answer may be the older one. The client dates an answer at most five seconds after it arrived
(``fetch.client``). So of two servers whose clocks differ by seconds the later one wins for so many seconds, answers of
the other are stale meanwhile, and neither undoes what the other said.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Literal

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_today
from raceday_dagster.racing.events import TERMINAL_STATUSES
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceRow

FARTHEST_LABEL = timedelta(days=2)
"""How far a race's own racing day may lie from the New Zealand date of its start; a label beyond is a mistake."""
FIRST_YEAR, LAST_YEAR = 2000, 2100
"""Racing days outside these years are mistakes; any past day inside can be replayed."""
NOON = 12

ObservedEntrants = Literal["every", "known", "changed"]
"""Entrants that get a money-flow row: every one, those that have earlier rows, or of these the ones whose amount has
changed."""


class StoredRace(Record):
    """The stored race, read under its lock; all ``None`` when there is none."""

    status: str | None = None
    meeting_id: str | None = None
    racing_day: date | None = None
    api_generated_time: datetime | None = None
    last_poll_time: datetime | None = None
    finalized_at: datetime | None = None
    abandoned_at: datetime | None = None
    meeting_day: date | None = None
    """Racing day of the stored meeting."""
    foreign_entrants: tuple[str, ...] = ()
    """Ids that the answer lists and that another race listed first."""
    missing_entrants: tuple[str, ...] = ()
    """Ids of stored entrants that the answer does not list and that are not withdrawn yet."""

    @property
    def ended_at(self) -> datetime | None:
        """When the feed said that the race was over."""
        return self.finalized_at or self.abandoned_at

    def has_newer_poll(self, generated_at: datetime) -> bool:
        """Whether a poll newer than this answer is stored."""
        return self.is_polled and self.api_generated_time is not None and self.api_generated_time > generated_at

    def has_newer_answer(self, generated_at: datetime) -> bool:
        """Whether any answer newer than this one is stored, the day's list included."""
        return self.api_generated_time is not None and self.api_generated_time > generated_at

    def has_poll_of(self, generated_at: datetime) -> bool:
        """Whether an earlier poll stored an answer of this time."""
        return self.is_polled and self.api_generated_time == generated_at

    @property
    def has_polled_end(self) -> bool:
        """Whether a poll, and not only the list, saw the race in its terminal status."""
        return (
            self.is_polled
            and self.ended_at is not None
            and self.api_generated_time is not None
            and self.api_generated_time >= self.ended_at
        )

    @property
    def is_polled(self) -> bool:
        """Whether any poll of the race is stored; from then on its history lies under its racing day."""
        return self.last_poll_time is not None


def guess_racing_days(race: RaceRow) -> set[date]:
    """The racing days under which a race may be stored, before anybody has looked: its own, and in the first half of
    New Zealand's day the one before, to whose meeting a race after midnight belongs. Empty for no racing day."""
    own = _read_own_day(race)
    if own is None or not is_racing_day(own):
        return set()
    is_early = race.start_time.astimezone(NEW_ZEALAND).hour < NOON
    return {own - timedelta(days=1), own} if is_early else {own}


def label_race(stored: StoredRace, race: RaceRow) -> date:
    """The racing day of the race's rows: the stored race's, else its meeting's, else its own.

    Raises:
        WriteError: Nothing is stored, and it starts on no racing day.
    """
    label = stored.racing_day or stored.meeting_day or _read_own_day(race)
    if label is None or not is_racing_day(label):
        message = f"the race was not written: it starts at {race.start_time.isoformat()}, which is no racing day"
        raise WriteError(message, race_id=race.race_id, retryable=False)
    return label


def is_racing_day(day: date) -> bool:
    """Whether a racing day can be meant, and so be given partitions."""
    return FIRST_YEAR <= day.year <= LAST_YEAR


def _read_own_day(race: RaceRow) -> date | None:
    """The New Zealand date of its start, or its own label if that is near; ``None`` at the end of the calendar."""
    try:
        started_on = choose_today(race.start_time)
    except OverflowError:
        return None
    if race.race_date_nz is None or abs(race.race_date_nz - started_on) > FARTHEST_LABEL:
        return started_on
    return race.race_date_nz


def choose_status(stored: StoredRace, status: str | None, generated_at: datetime) -> dict[str, Any]:
    """The columns of ``races`` that a status changes; empty when the stored one stays.

    A race that is over is reopened only by an answer made after the one that ended it. ``None`` is a status nobody
    knows: the stored one stays, a new race is open.
    """
    if stored.status is None:
        status = status or "open"
    if status is None or status == stored.status:
        return {}
    if stored.status in TERMINAL_STATUSES and stored.ended_at is not None and generated_at <= stored.ended_at:
        return {}
    return {
        "status": status,
        "last_status_change": generated_at,
        "finalized_at": generated_at if status == "final" else None,
        "abandoned_at": generated_at if status == "abandoned" else None,
    }


def choose_observed_entrants(stored: StoredRace, change: dict[str, Any]) -> ObservedEntrants:
    """Money flows while a race is open, closed or interim and in the first poll that sees it final; a race that is
    abandoned gets one last row for those who have one. Afterwards only an amount that still changes is added, so that
    an entrant's increments add up to its present amount, whichever poll saw the end first."""
    status = change.get("status", stored.status)
    if status not in TERMINAL_STATUSES:
        return "every"
    if not change and stored.has_polled_end:
        return "changed"
    return "every" if status == "final" else "known"


def choose_meetings_to_update(stored: StoredRace, change: dict[str, Any], meeting_id: str) -> set[str]:
    """The meetings whose status may follow: the race's when it began to exist, ended, or went on after all; when it
    moved to another meeting, both."""
    if stored.meeting_id is not None and stored.meeting_id != meeting_id:
        return {stored.meeting_id, meeting_id}
    follows = bool(change) and (
        stored.status is None or stored.status in TERMINAL_STATUSES or change["status"] in TERMINAL_STATUSES
    )
    return {meeting_id} if follows else set()
