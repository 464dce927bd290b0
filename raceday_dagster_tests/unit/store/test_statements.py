"""The text of an upsert, and the days of the partitions."""

from __future__ import annotations

from datetime import UTC, date, datetime

from raceday_dagster.store.race_write import RACE
from raceday_dagster.store.schema.partitions import choose_days
from raceday_dagster.store.upsert import build_insert


def test_columns_that_are_only_inserted_are_never_set() -> None:
    statement = build_insert(RACE, frozenset({"race_id", "racing_day", "name", "last_poll_time"}), "rows")
    inserted, updated = statement.split("DO UPDATE")
    assert "racing_day" in inserted
    assert "racing_day" not in updated


def test_today_is_new_zealands_and_three_days_follow() -> None:
    late_in_utc = datetime(2025, 12, 30, 23, 30, tzinfo=UTC)
    assert choose_days(late_in_utc) == [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]


def test_asked_days_join_each_once() -> None:
    now = datetime(2025, 7, 17, 1, tzinfo=UTC)
    assert choose_days(now, [date(2025, 7, 1), date(2025, 7, 18)]) == [
        date(2025, 7, 1),
        *(date(2025, 7, day) for day in (17, 18, 19, 20)),
    ]
