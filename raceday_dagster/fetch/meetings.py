"""A page of ``/racing/meetings`` and its way into records. What cannot be read costs only itself: a field, or, if
nothing can be polled without it, a race or a meeting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from raceday_dagster.fetch.wire import (
    WIRE_CONFIG,
    Code,
    Flag,
    Id,
    Label,
    Positive,
    RequiredInstant,
    RequiredLabel,
    Text,
    Whole,
    WireError,
    WireHeader,
    describe_invalid,
    find_complaint,
    known,
    name_path,
    parse_document,
    read_leniently,
    refuse_complaint,
)
from raceday_dagster.racing.events import Category, ListedMeeting, ListedRace, RacingDay, Rejected


@with_config(WIRE_CONFIG)
class WireListedRace(TypedDict):
    """One of a meeting's ``races``. Its times are ISO texts; those of an event are epoch seconds."""

    race_id: Annotated[Id, Field(alias="id")]
    race_number: Positive
    name: NotRequired[Text]
    start_time: RequiredInstant
    status: NotRequired[Text | None]
    tote_start_time: NotRequired[Text | None]
    distance: NotRequired[Whole | None]
    track_condition: NotRequired[Text | None]
    weather: NotRequired[Text | None]
    protest: NotRequired[Flag | None]
    protest_reason: NotRequired[Text | None]


@with_config(WIRE_CONFIG)
class WireListedMeeting(TypedDict):
    """One of ``data.meetings``; its races are read one by one."""

    meeting_id: Annotated[Id, Field(alias="meeting")]
    meeting_name: NotRequired[Annotated[Text, Field(alias="name")]]
    racing_day: Annotated[RequiredLabel, Field(alias="date")]
    category: Category
    country: Code
    races: list[Any] | None
    category_name: NotRequired[Text | None]
    state: NotRequired[Text | None]
    track_condition: NotRequired[Text | None]
    tote_meeting_number: NotRequired[Whole | None]
    tote_raceday_date: NotRequired[Label | None]
    tote_status: NotRequired[Text | None]
    video_channels: NotRequired[list[Text] | None]


class _Data(TypedDict):
    meetings: list[Any] | None


@with_config(WIRE_CONFIG)
class _Page(TypedDict):
    header: NotRequired[WireHeader | None]
    params: NotRequired[Any]
    data: _Data


_RACE_REQUIRED = frozenset({(), ("id",), ("race_number",), ("start_time",)})
_MEETING_REQUIRED = frozenset({(), ("meeting",), ("date",), ("category",), ("country",), ("races",)})
_RACE = TypeAdapter(WireListedRace)
_MEETING = TypeAdapter(WireListedMeeting)
_PAGE = TypeAdapter(_Page)


Listing = tuple[ListedMeeting, tuple[ListedRace, ...]]
"""A meeting with its races."""


@dataclass(frozen=True)
class MeetingsPage:
    """One page: ``size`` is how many meetings it lists and ``entries`` tells them apart, the unreadable ones included;
    ``limit`` is the most it could list, as far as the API says so; ``dropped`` as in ``RacingDay``."""

    size: int
    entries: frozenset[str]
    limit: int | None
    generated_at: datetime
    listings: tuple[Listing, ...]
    rejected: tuple[Rejected, ...]
    dropped: tuple[str, ...]


def parse_meetings_page(body: bytes, *, received_at: datetime) -> MeetingsPage:
    """The records of one page that was complete at ``received_at``. ``null`` for a list is an empty one.

    Raises:
        WireError: The body is not such a page at all, or says that the API failed.
    """
    content = parse_document(body)
    refuse_complaint(find_complaint(content))
    try:
        page = _PAGE.validate_python(content)
    except ValidationError as error:
        raise WireError(describe_invalid(error)) from error
    entries = page["data"]["meetings"] or []
    rejected: list[Rejected] = []
    listings = []
    dropped: list[str] = []
    names = frozenset(_find_id(entry, "meeting") or f"number {index}" for index, entry in enumerate(entries))
    for entry in entries:
        try:
            listings.append(_read_listing(entry, rejected, dropped))
        except WireError as error:
            rejected.append(Rejected(meeting_id=_find_id(entry, "meeting"), reason=str(error)))
    params = page.get("params")
    limit = params.get("limit") if isinstance(params, dict) else None
    return MeetingsPage(
        size=len(entries),
        entries=names,
        limit=limit if type(limit) is int and limit > 0 else None,
        generated_at=(page.get("header") or {}).get("generated_time") or received_at,
        listings=tuple(listings),
        rejected=tuple(rejected),
        dropped=tuple(dropped),
    )


def build_racing_day(racing_day: date, pages: Iterable[MeetingsPage]) -> RacingDay:
    """All pages of a day as one. A meeting that slid onto the next page is taken once; a race has one meeting; a
    meeting of another day is rejected."""
    pages = list(pages)
    meetings: dict[str, ListedMeeting] = {}
    races: dict[str, ListedRace] = {}
    rejected = [reject for page in pages for reject in page.rejected]
    for meeting, listed in (listing for page in pages for listing in page.listings):
        meeting_id = meeting.meeting_id
        if meeting_id in meetings:
            continue
        if meeting.racing_day != racing_day:
            rejected.append(Rejected(meeting_id=meeting_id, reason=f"is of {meeting.racing_day}"))
            continue
        meetings[meeting_id] = meeting
        for race in listed:
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
        dropped=tuple(text for page in pages for text in page.dropped),
    )


def _read_listing(entry: object, rejected: list[Rejected], dropped: list[str]) -> Listing:
    """A meeting with its readable races; adds to ``rejected`` and ``dropped`` what was not."""
    meeting, places = read_leniently(_MEETING, entry, required=_MEETING_REQUIRED)
    meeting_id = meeting["meeting_id"]
    dropped += [f"{meeting_id}: {name_path(place)}" for place in places]
    races = []
    for index, race_entry in enumerate(meeting["races"] or ()):
        # A novelty market, such as a jockey challenge.
        if isinstance(race_entry, dict) and race_entry.get("race_number") in (0, "0"):
            continue
        try:
            race, places = read_leniently(_RACE, race_entry, required=_RACE_REQUIRED)
        except WireError as error:
            name = _find_id(race_entry, "id") or f"number {index + 1} of the list"
            rejected.append(Rejected(meeting_id=meeting_id, reason=f"race {name}: {error}"))
        else:
            races.append(_build_race(race, meeting))
            dropped += [f"{meeting_id}: races.{index}.{name_path(place)}" for place in places]
    return ListedMeeting.model_validate(known(meeting, but=("races",))), tuple(races)


def _build_race(race: WireListedRace, meeting: WireListedMeeting) -> ListedRace:
    fields = known(race) | {name: meeting[name] for name in ("meeting_id", "racing_day", "category")}
    if status := race.get("status"):
        fields["status"] = status.strip().lower()
    return ListedRace.model_validate(fields)


def _find_id(entry: object, key: str) -> str | None:
    """The id of something unreadable, if at least that is sound."""
    found = entry.get(key) if isinstance(entry, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= 100 and found.isprintable() else None
