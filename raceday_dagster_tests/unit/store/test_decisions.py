"""What an answer may change, given what is stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from raceday_dagster.racing.snapshots import RaceRow
from raceday_dagster.store.decisions import (
    StoredRace,
    choose_status,
    guess_racing_days,
    label_race,
)

NOON = datetime(2025, 7, 17, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=15)
EARLIER = NOON - timedelta(seconds=15)


def make_race(start_time: datetime = NOON, **fields: Any) -> RaceRow:
    return RaceRow(race_id="r", meeting_id="m", name="Maiden", race_number=1, start_time=start_time, type="T", **fields)


def polled(status: str, at: datetime = NOON, **fields: Any) -> StoredRace:
    return StoredRace(status=status, api_generated_time=at, last_poll_time=at, **fields)


def test_the_racing_day_is_the_stored_label_before_any_calendar() -> None:
    race = make_race(race_date_nz=date(2025, 7, 18))
    label, meeting_label = date(2025, 7, 17), date(2025, 7, 16)
    assert label_race(StoredRace(racing_day=label, meeting_day=meeting_label), race) == label
    assert label_race(StoredRace(meeting_day=meeting_label), race) == meeting_label
    assert label_race(StoredRace(), race) == date(2025, 7, 18)
    assert label_race(StoredRace(), make_race(datetime(2025, 4, 5, 11, 0, tzinfo=UTC))) == date(2025, 4, 6)


def test_a_race_after_midnight_may_belong_to_the_day_before_and_one_in_the_afternoon_may_not() -> None:
    after_midnight, afternoon = datetime(2025, 7, 16, 13, tzinfo=UTC), datetime(2025, 7, 17, 3, tzinfo=UTC)
    assert guess_racing_days(make_race(after_midnight)) == {date(2025, 7, 16), date(2025, 7, 17)}
    assert guess_racing_days(make_race(afternoon)) == {date(2025, 7, 17)}
    assert guess_racing_days(make_race(datetime(1970, 1, 1, tzinfo=UTC))) == set()
    assert guess_racing_days(make_race(datetime(9999, 12, 31, 23, tzinfo=UTC))) == set()


def test_a_new_race_is_open_when_nobody_knows_its_status() -> None:
    assert choose_status(StoredRace(), None, NOON)["status"] == "open"


def test_an_unknown_status_leaves_the_stored_one() -> None:
    assert choose_status(polled("interim"), None, LATER) == {}


def test_a_change_is_dated_by_the_feed() -> None:
    change = choose_status(polled("interim"), "final", LATER)
    assert change == {"status": "final", "last_status_change": LATER, "finalized_at": LATER, "abandoned_at": None}
    assert choose_status(polled("closed"), "abandoned", LATER)["abandoned_at"] == LATER


@pytest.mark.parametrize("ended", ["final", "abandoned"])
def test_only_a_newer_answer_reopens_a_race_that_is_over(ended: str) -> None:
    stored = polled(ended, **{"finalized_at" if ended == "final" else "abandoned_at": NOON})
    assert choose_status(stored, "open", EARLIER) == {}
    assert choose_status(stored, "open", NOON) == {}
    assert choose_status(stored, "interim", LATER)["status"] == "interim"
    assert choose_status(stored, "interim", LATER)["finalized_at"] is None


@pytest.mark.parametrize("label", [date(1, 1, 1), date(2025, 7, 20), date(9999, 12, 31)])
def test_a_label_far_from_the_start_is_not_believed(label: date) -> None:
    assert label_race(StoredRace(), make_race(race_date_nz=label)) == date(2025, 7, 17)
