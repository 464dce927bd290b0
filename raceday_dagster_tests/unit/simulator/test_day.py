"""The racing day of the simulator: the same for the same seed, laid out like a real one."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from raceday_dagster.simulator.day import NEW_ZEALAND, Race, RaceDay
from raceday_dagster.simulator.field import draw_field
from raceday_dagster.simulator.meetings import list_meetings, write_tote_clock

WINTER = date(2025, 7, 17)
ASKED = {"date_from": "2025-07-17", "date_to": "2025-07-17", "limit": "200"}


def followed(day: RaceDay) -> list[Race]:
    """The races the pipeline follows by default."""
    return [
        race
        for race in day.races
        if race.meeting.slot.country in ("NZ", "AUS") and race.meeting.slot.category in ("T", "H")
    ]


def test_a_day_has_about_twelve_meetings_and_a_hundred_races_to_follow_and_others_beside() -> None:
    day = RaceDay(1, WINTER)
    races = followed(day)
    assert len({race.meeting.meeting_id for race in races}) == 12
    assert 95 <= len(races) <= 120
    others = {race.meeting.slot.country for race in day.races} - {"NZ", "AUS"}
    assert len(others) == 2
    assert any(race.meeting.slot.category == "G" for race in day.races)


def test_the_same_seed_gives_the_same_day_and_another_seed_another() -> None:
    def describe(day: RaceDay) -> list[tuple[object, ...]]:
        return [(race.race_id, race.name, race.starts_at, draw_field(race)) for race in day.races]

    assert describe(RaceDay(7, WINTER)) == describe(RaceDay(7, WINTER))
    assert describe(RaceDay(7, WINTER)) != describe(RaceDay(8, WINTER))
    runners = [runner.entrant_id for race in RaceDay(7, WINTER).races for runner in draw_field(race)]
    assert len(set(runners)) == len(runners)
    ids = {race.race_id for race in RaceDay(7, WINTER).races}
    assert not ids & {race.race_id for race in RaceDay(7, WINTER + timedelta(days=1)).races}


@pytest.mark.parametrize("day", [WINTER, date(2026, 4, 5), date(2025, 9, 28)], ids=["winter", "back", "forward"])
def test_an_ordinary_day_lasts_from_eleven_until_after_midnight(day: date) -> None:
    races = followed(RaceDay(1, day))
    assert races[0].starts_nz.isoformat().startswith(f"{day}T11:00:00")
    after_midnight = [race for race in races if race.starts_nz.date() > day]
    assert after_midnight
    assert all(race.meeting.racing_day == day for race in after_midnight)


@pytest.mark.parametrize("day", [WINTER, date(2026, 4, 4), date(2026, 4, 5), date(2025, 9, 27)])
def test_the_tote_clock_is_the_new_zealand_start_counted_from_the_racing_day(day: date) -> None:
    for race in RaceDay(1, day).races:
        hours, minutes, seconds = map(int, write_tote_clock(race).split(":"))
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a wall clock has no zone
        wall = midnight + timedelta(hours=hours, minutes=minutes, seconds=seconds)
        assert wall == race.starts_at.astimezone(NEW_ZEALAND).replace(tzinfo=None)


def test_a_larger_day_repeats_the_programme_with_other_ids_and_begins_like_the_ordinary_one() -> None:
    ordinary, larger = RaceDay(1, WINTER), RaceDay(1, WINTER, meetings=35)

    assert len(larger.meetings) == 35
    assert len(followed(larger)) > 200
    assert len({race.race_id for race in larger.races}) == len(larger.races)
    assert [meeting.meeting_id for meeting in larger.meetings[:16]] == [each.meeting_id for each in ordinary.meetings]
    assert [meeting.slot for meeting in larger.meetings[16:32]] == [each.slot for each in ordinary.meetings]


def test_a_given_first_start_keeps_five_races_within_about_ten_minutes_all_day() -> None:
    first = datetime(2025, 7, 17, 4, 30, tzinfo=UTC)
    races = followed(RaceDay(1, WINTER, first))
    starts = [race.starts_at for race in races]
    assert starts[0] == first
    assert len(set(starts)) == len(starts)
    for start, fifth in zip(starts, starts[4:100], strict=False):
        assert fifth - start <= timedelta(minutes=15)
    busy = starts[: bisect_left(starts, first + timedelta(hours=3))]
    assert all(busy[at + 4] - busy[at] <= timedelta(minutes=10) for at in range(len(busy) - 4))


def test_a_given_first_start_changes_nothing_but_the_starts() -> None:
    day = RaceDay(1, WINTER)
    shifted = RaceDay(1, WINTER, datetime(2025, 7, 17, 4, 30, tzinfo=UTC))
    assert {race.race_id: race.name for race in day.races} == {race.race_id: race.name for race in shifted.races}
    for meeting in shifted.meetings:
        assert all(one.starts_at < next_one.starts_at for one, next_one in pairwise(meeting.races))


def test_today_is_the_servers_and_counted_in_utc() -> None:
    day = RaceDay(1, WINTER)
    morning_in_nz = datetime(2025, 7, 16, 23, 0, tzinfo=UTC)
    assert list_meetings(day, morning_in_nz, {}, "/")["data"]["meetings"] == []
    assert list_meetings(day, morning_in_nz + timedelta(hours=2), {}, "/")["data"]["meetings"]


def test_the_meetings_show_what_only_some_of_them_have() -> None:
    day = RaceDay(1, WINTER)
    meetings = list_meetings(day, day.first_start, ASKED, "/")["data"]["meetings"]
    assert all(meeting["date"] == "2025-07-17T00:00:00Z" for meeting in meetings)
    without_tote = [meeting for meeting in meetings if "tote_status" not in meeting]
    assert without_tote
    assert all("tote_start_time" not in race for meeting in without_tote for race in meeting["races"])
    assert any(meeting.get("tote_running_double") for meeting in meetings)
    hours = [int(race["tote_start_time"][:2]) for m in meetings for race in m["races"] if "tote_start_time" in race]
    assert max(hours) >= 24
