"""A page of ``/racing/meetings`` and its way into records. What cannot be read costs only itself, meeting or race."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pydantic import Field, ValidationError

from raceday_dagster.fetch.envelope import WireHeader, refuse_complaint
from raceday_dagster.fetch.repeated_keys import find_repeated_keys
from raceday_dagster.fetch.wire_fields import (
    Code,
    Flag,
    Id,
    Label,
    Positive,
    RequiredInstant,
    RequiredLabel,
    Text,
    Whole,
    Wire,
    WireError,
    describe_invalid,
    name_path,
)
from raceday_dagster.racing.events import Category, ListedMeeting, ListedRace, RacingDay, Rejected


class WireListedRace(Wire):
    """One of a meeting's ``races``. Its times are ISO texts; those of an event are epoch seconds."""

    race_id: Id = Field(alias="id")
    race_number: Positive
    name: Text
    start_time: RequiredInstant
    status: Text | None = None
    tote_start_time: Text | None = None
    distance: Whole | None = None
    track_condition: Text | None = None
    weather: Text | None = None
    protest: Flag | None = None
    protest_reason: Text | None = None


class WireListedMeeting(Wire):
    """One of ``data.meetings``; its races are read one by one."""

    meeting_id: Id = Field(alias="meeting")
    meeting_name: Text = Field(alias="name")
    racing_day: RequiredLabel = Field(alias="date")
    category: Category
    country: Code
    races: list[Any] | None
    category_name: Text | None = None
    state: Text | None = None
    track_condition: Text | None = None
    tote_meeting_number: Whole | None = None
    tote_raceday_date: Label | None = None
    tote_status: Text | None = None
    video_channels: list[Text] | None = None


class _Data(Wire):
    meetings: list[Any] | None


class _Params(Wire):
    limit: Any = None


class _Page(Wire):
    header: WireHeader | None = None
    params: _Params | None = None
    data: _Data


@dataclass(frozen=True)
class Listing:
    """A meeting with its races."""

    meeting: ListedMeeting
    races: tuple[ListedRace, ...]


@dataclass(frozen=True)
class MeetingsPage:
    """One page: ``size`` is how many meetings it lists, the unreadable ones included; ``limit`` is the most it could
    list, as far as the API says so."""

    size: int
    limit: int | None
    generated_at: datetime
    listings: tuple[Listing, ...]
    rejected: tuple[Rejected, ...]

    @property
    def meeting_ids(self) -> set[str]:
        """Of the readable meetings."""
        return {listing.meeting.meeting_id for listing in self.listings}


def parse_meetings_page(body: bytes, *, received_at: datetime) -> MeetingsPage:
    """The records of one page that was complete at ``received_at``. ``null`` for a list is an empty one.

    Raises:
        WireError: The body is not such a page at all, or says that the API failed.
    """
    refuse_complaint(body)
    try:
        page = _Page.model_validate_json(body)
    except ValidationError as error:
        raise WireError(describe_invalid(error)) from error
    entries = page.data.meetings or []
    rejected: list[Rejected] = []
    doubtful = _locate_doubtful(body)
    listings = []
    for index, entry in enumerate(entries):
        try:
            listings.append(_read_listing(entry, doubtful.get(index), rejected))
        except WireError as error:
            rejected.append(Rejected(meeting_id=_find_id(entry, "meeting"), reason=str(error)))
    limit = page.params and page.params.limit
    return MeetingsPage(
        size=len(entries),
        limit=limit if type(limit) is int and limit > 0 else None,
        generated_at=(page.header and page.header.generated_time) or received_at,
        listings=tuple(listings),
        rejected=tuple(rejected),
    )


def build_racing_day(racing_day: date, pages: Iterable[MeetingsPage]) -> RacingDay:
    """All pages of a day as one. A meeting that slid onto the next page is taken once; a race has one meeting."""
    pages = list(pages)
    meetings: dict[str, ListedMeeting] = {}
    races: dict[str, ListedRace] = {}
    rejected = [reject for page in pages for reject in page.rejected]
    for listing in (listing for page in pages for listing in page.listings):
        meeting_id = listing.meeting.meeting_id
        if meeting_id in meetings:
            continue
        meetings[meeting_id] = listing.meeting
        for race in listing.races:
            if race.race_id in races:
                rejected.append(Rejected(meeting_id=meeting_id, reason=f"race {race.race_id}: is listed twice"))
            else:
                races[race.race_id] = race
    return RacingDay(
        racing_day=racing_day,
        generated_at=min(page.generated_at for page in pages),
        meetings=tuple(meetings.values()),
        races=tuple(races.values()),
        rejected=tuple(rejected),
    )


def _locate_doubtful(body: bytes) -> dict[int, str]:
    """Index of each meeting that names a key twice, with the path below it."""
    doubtful: dict[int, str] = {}
    for location in find_repeated_keys(body):
        match location:
            case ("data", "meetings", int(index), *below):
                doubtful.setdefault(index, name_path(tuple(below)))
            case _:
                raise WireError(f"{name_path(location)}: the key is there twice")
    return doubtful


def _read_listing(entry: object, repeated_key: str | None, rejected: list[Rejected]) -> Listing:
    if repeated_key is not None:
        raise WireError(f"{repeated_key}: the key is there twice")
    try:
        meeting = WireListedMeeting.model_validate(entry)
    except ValidationError as error:
        raise WireError(describe_invalid(error)) from error
    races = []
    for index, race_entry in enumerate(meeting.races or ()):
        try:
            races.append(_build_race(WireListedRace.model_validate(race_entry), meeting))
        except ValidationError as error:
            race = _find_id(race_entry, "id") or f"number {index + 1} of the list"
            rejected.append(Rejected(meeting_id=meeting.meeting_id, reason=f"race {race}: {describe_invalid(error)}"))
    return Listing(meeting=ListedMeeting(**meeting.known(but=frozenset({"races"}))), races=tuple(races))


def _build_race(race: WireListedRace, meeting: WireListedMeeting) -> ListedRace:
    fields = race.known()
    if race.status:
        fields["status"] = race.status.strip().lower()
    return ListedRace(**fields, meeting_id=meeting.meeting_id, racing_day=meeting.racing_day, category=meeting.category)


def _find_id(entry: object, key: str) -> str | None:
    """The id of something unreadable, if at least that is sound."""
    found = entry.get(key) if isinstance(entry, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= 100 and found.isprintable() else None
