"""How a page of meetings becomes records, and what one bad meeting or race costs."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from raceday_dagster.fetch.meetings import build_racing_day, parse_meetings_page
from raceday_dagster.fetch.wire import WireError
from raceday_dagster.racing.events import RacingDay
from raceday_dagster_tests.payloads import encode, list_meeting, list_race, make_id, meetings_payload

DAY = date(2025, 7, 17)
NOW = datetime(2025, 7, 17, 10, 48, 30, tzinfo=UTC)


def parse(*meetings: Any) -> RacingDay:
    page = parse_meetings_page(encode(meetings_payload(meetings)), received_at=NOW)
    assert page.size == len(meetings)
    return build_racing_day(DAY, [page])


def test_a_meeting_and_its_races_carry_what_the_list_says() -> None:
    day = parse(list_meeting("Kauri Flat", races=1))
    (meeting,), (race,) = day.meetings, day.races
    assert (meeting.meeting_id, meeting.meeting_name) == (make_id("meeting", "Kauri Flat"), "Kauri Flat")
    assert (meeting.racing_day, meeting.category, meeting.country) == (DAY, "T", "NZ")
    assert (meeting.tote_meeting_number, meeting.tote_raceday_date, meeting.tote_status) == (4, DAY, "Open")
    assert meeting.video_channels == ("Trackside2", "Trackside1")
    assert race.meeting_id == meeting.meeting_id
    assert (race.race_number, race.category, race.status, race.distance) == (1, "T", "open", 1200)
    assert race.start_time == datetime(2025, 7, 17, 4, 30, tzinfo=UTC)
    assert "protest" not in race.carried()
    assert day.generated_at == datetime(2025, 7, 17, 10, 48, 11, 805562, tzinfo=UTC)


def test_the_day_of_a_meeting_is_a_label_that_no_zone_moves() -> None:
    day = parse(list_meeting(date="2025-07-17T23:59:59-11:00"))
    assert {day.meetings[0].racing_day, *(race.racing_day for race in day.races)} == {DAY}


def test_a_fixed_odds_meeting_has_no_tote_fields() -> None:
    meeting = list_meeting()
    for key in ("tote_meeting_number", "tote_raceday_date", "tote_status", "video_channels"):
        del meeting[key]
    carried = parse({**meeting, "track_condition": ""}).meetings[0].carried()
    assert {"tote_meeting_number", "tote_status", "video_channels", "track_condition"}.isdisjoint(carried)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category": "X"}, "category: input should be 'T', 'H' or 'G'"),
        ({"category": None}, "category: input should be 'T', 'H' or 'G'"),
        ({"country": ""}, "country: string should match pattern '^[A-Z]{2,3}$'"),
        ({"date": "2100-01-01"}, "date: must be between the years 2000 and 2100"),
        ({"date": "soon"}, "date: must begin with a date like 2025-07-17"),
        ({"races": {}}, "races: input should be a list"),
        ({"date": "2025-07-18"}, "is of 2025-07-18"),
    ],
)
def test_a_malformed_meeting_costs_only_itself(changes: dict[str, Any], reason: str) -> None:
    day = parse(list_meeting("Good"), {**list_meeting("Bad"), **changes}, list_meeting("Fine"))
    assert [meeting.meeting_name for meeting in day.meetings] == ["Good", "Fine"]
    assert len(day.races) == 4
    assert [(reject.meeting_id, reject.reason) for reject in day.rejected] == [(make_id("meeting", "Bad"), reason)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tote_meeting_number", "four"),
        ("tote_raceday_date", "0001-01-01T00:00:00Z"),
        ("video_channels", "Trackside1"),
        ("name", None),
        ("races.1.name", "a\0b"),
        ("races.1.distance", "far"),
    ],
)
def test_an_unreadable_field_costs_only_itself(field: str, value: Any) -> None:
    meeting, without = list_meeting("One", races=2), list_meeting("One", races=2)
    race, _, name = field.rpartition(".")
    for changed in (meeting, without):
        owner = changed["races"][1] if race else changed
        del owner[name]
    (meeting["races"][1] if race else meeting)[name] = value
    day, expected = parse(meeting), parse(without)
    assert day.dropped == (f"{make_id('meeting', 'One')}: {field}",)
    assert (day.meetings, day.races, day.rejected) == (expected.meetings, expected.races, ())


def test_a_novelty_market_with_race_number_0_is_left_out_in_silence() -> None:
    meeting = list_meeting("One", races=2)
    meeting["races"][0]["race_number"] = 0
    day = parse(meeting)
    assert [race.race_number for race in day.races] == [2]
    assert (day.rejected, day.dropped) == ((), ())


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"meeting": 7}, {"meeting": "a\nb"}])
def test_an_entry_without_a_sound_id_is_rejected_without_one(entry: Any) -> None:
    day = parse(list_meeting(), entry)
    assert len(day.meetings) == 1
    (reject,) = day.rejected
    assert reject.meeting_id is None
    assert "\n" not in reject.reason


def test_a_blank_date_is_no_date() -> None:
    assert parse(list_meeting(date="")).rejected[0].reason.startswith("date: ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"race_number": -1}, "race_number: input should be greater than or equal to 1"),
        ({"start_time": ""}, "start_time: "),
        ({"start_time": 1752713400}, "start_time: input should be a valid string"),
    ],
)
def test_a_malformed_race_costs_only_itself(changes: dict[str, Any], reason: str) -> None:
    meeting = list_meeting("Mixed", races=3)
    meeting["races"][1].update(changes)
    day = parse(meeting)
    assert [race.race_number for race in day.races] == [1, 3]
    (reject,) = day.rejected
    assert reject.meeting_id == make_id("meeting", "Mixed")
    assert reject.reason.startswith(f"race {make_id('Mixed', 'race', 2)}: {reason}")


def test_blank_names_are_not_set() -> None:
    day = parse(list_meeting(name=" ", races=0) | {"races": [list_race("One", 1, name="")]})
    assert "meeting_name" not in day.meetings[0].carried()
    assert "name" not in day.races[0].carried()


def test_a_race_that_is_no_object_is_named_by_its_place() -> None:
    meeting = list_meeting("Mixed", races=1)
    meeting["races"].append(None)
    assert parse(meeting).rejected[0].reason.startswith("race number 2 of the list: ")


def test_a_race_listed_twice_has_its_first_meeting() -> None:
    day = parse(list_meeting("One", races=1), list_meeting("Two", races=0) | {"races": [list_race("One", 1)]})
    assert [race.meeting_id for race in day.races] == [make_id("meeting", "One")]
    assert [(reject.meeting_id, reject.reason) for reject in day.rejected] == [
        (make_id("meeting", "Two"), f"race {make_id('One', 'race', 1)}: is listed twice")
    ]


def test_a_key_that_is_there_twice_costs_only_what_depends_on_it() -> None:
    body = encode(meetings_payload([list_meeting("One"), list_meeting("Two")]))
    body = body.replace(b'"distance": 1200', b'"distance": 1200, "distance": 9', 1)
    at = body.rindex(b'"race_number": 2')
    page = parse_meetings_page(body[:at] + b'"race_number": 9, ' + body[at:], received_at=NOW)
    assert [len(races) for _meeting, races in page.listings] == [2, 1]
    assert page.dropped == (f"{make_id('meeting', 'One')}: races.0.distance",)
    reason = f"race {make_id('Two', 'race', 2)}: race_number: the key is there twice"
    assert [reject.reason for reject in page.rejected] == [reason]
    unread = encode(meetings_payload([list_meeting("One")])).replace(
        b'"data": {', b'"data": {"error": 1, "error": 2, ', 1
    )
    assert parse_meetings_page(unread, received_at=NOW).dropped == ()


def test_a_page_that_names_its_list_twice_is_no_page() -> None:
    with pytest.raises(WireError, match=r"^data\.meetings: the key is there twice$"):
        parse_meetings_page(b'{"data": {"meetings": [], "meetings": []}}', received_at=NOW)


def test_a_null_list_is_an_empty_one_and_a_missing_list_is_an_error() -> None:
    page = parse_meetings_page(b'{"data": {"meetings": null}}', received_at=NOW)
    assert (page.size, page.listings, page.generated_at) == (0, (), NOW)
    assert parse(list_meeting(races=0) | {"races": None}).races == ()
    with pytest.raises(WireError, match=r"^data\.meetings: field required$"):
        parse_meetings_page(b'{"data": {}}', received_at=NOW)
    with pytest.raises(WireError, match="the API says: broken"):
        parse_meetings_page(b'{"header": {"error": "broken"}, "data": {"meetings": []}}', received_at=NOW)
