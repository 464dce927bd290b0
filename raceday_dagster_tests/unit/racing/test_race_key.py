"""Readable names of races: what they look like, and that a race is found by either of its names."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.racing.race_key import RaceKey, build_race_key, parse_race_key, read_id_start

DAY = date(2026, 11, 26)
RACE_ID = "95bd6ff7-22a5-4c0d-9b1e-30f1c2a7d111"


def test_a_race_is_named_by_day_meeting_number_and_the_start_of_its_id() -> None:
    key = build_race_key(DAY, "Te Rimu Downs", 5, RACE_ID)
    assert key == "2026-11-26 Te Rimu Downs R05 95bd6ff7"
    assert parse_race_key(key) == RaceKey(racing_day=DAY, id_start="95bd6ff7")
    assert read_id_start(key) == read_id_start(RACE_ID) == "95bd6ff7"


@pytest.mark.parametrize("key", [RACE_ID, "", "2026-11-26", "2026-13-26 Awapuni R01 95bd6ff7", "race-1"])
def test_a_bare_id_is_no_readable_name(key: str) -> None:
    assert parse_race_key(key) is None


def test_an_id_with_other_characters_stays_bare() -> None:
    assert build_race_key(DAY, "Awapuni", 1, "a b\nc") == "a b\nc"


@given(meeting=st.text(max_size=2_000), number=st.integers(0, 200))
def test_any_meeting_name_gives_a_short_line_that_leads_back(meeting: str, number: int) -> None:
    key = build_race_key(DAY, meeting, number, RACE_ID)
    assert parse_race_key(key) == RaceKey(racing_day=DAY, id_start=RACE_ID[:8])
    assert len(key) < 80
    assert key.isprintable()
    assert not set(key) & set('[],:<>"')
