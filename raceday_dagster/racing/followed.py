"""Which meetings of a racing day are followed."""

from __future__ import annotations

from collections.abc import Collection

from raceday_dagster.racing.events import RacingDay


def select_meetings(day: RacingDay, *, countries: Collection[str], categories: Collection[str]) -> RacingDay:
    """The day with only the meetings of these countries and categories, and only their races.

    A race goes with its meeting: one whose meeting is not listed is dropped. Rejected meetings stay reported, for
    nobody knows where they would have belonged.
    """
    meetings = tuple(
        meeting for meeting in day.meetings if meeting.country in countries and meeting.category in categories
    )
    followed = {meeting.meeting_id for meeting in meetings}
    races = tuple(race for race in day.races if race.meeting_id in followed)
    return day.model_copy(update={"meetings": meetings, "races": races})
