"""The texts of the upserts, the days of the partitions, the ledger's words and the pool's fullness."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from raceday_dagster.store.engine import describe_utilisation
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


@pytest.mark.parametrize(
    ("in_use", "waiting", "percent", "level"),
    [(0, 0, 0, "info"), (6, 0, 60, "info"), (7, 0, 70, "warning"), (8, 0, 80, "error"), (6, 1, 60, "error")],
)
def test_a_pool_is_warned_about_from_seventy_percent(in_use: int, waiting: int, percent: int, level: str) -> None:
    use = describe_utilisation(in_use, 10, waiting, opened=2)
    assert (use.percent, use.level) == (percent, level)
    assert (use.opened, use.idle) == (max(2, in_use), max(2 - in_use, 0)), "what was never opened is not idle"
