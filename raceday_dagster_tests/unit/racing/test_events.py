"""Which meetings of a day are followed."""

from __future__ import annotations

from datetime import UTC, datetime

from raceday_dagster.racing.events import ListedMeeting, ListedRace, RacingDay, Rejected

NOW = datetime(2025, 7, 17, tzinfo=UTC)


def test_a_day_is_cut_to_the_meetings_of_the_chosen_countries_and_categories_and_their_races() -> None:
    meetings = [
        ListedMeeting(meeting_id=f"{country}-{category}", racing_day=NOW.date(), category=category, country=country)
        for country in ("NZ", "AUS", "UK")
        for category in ("T", "H", "G")
    ]
    races = [
        ListedRace(
            race_id=f"race-{meeting_id}",
            meeting_id=meeting_id,
            racing_day=NOW.date(),
            race_number=1,
            start_time=NOW,
            category="T",
        )
        for meeting_id in ("NZ-T", "NZ-G", "UK-T", "unlisted")
    ]
    day = RacingDay(
        racing_day=NOW.date(),
        generated_at=NOW,
        meetings=tuple(meetings),
        races=tuple(races),
        rejected=(Rejected(meeting_id=None, reason="no id"),),
    )
    followed = day.select_meetings(countries={"NZ", "AUS"}, categories={"T", "H"})
    assert [meeting.meeting_id for meeting in followed.meetings] == ["NZ-T", "NZ-H", "AUS-T", "AUS-H"]
    assert [race.race_id for race in followed.races] == ["race-NZ-T"]
    assert followed.rejected == day.rejected
