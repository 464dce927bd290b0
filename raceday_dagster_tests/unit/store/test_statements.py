"""The texts of the upserts, the days of the partitions, the ledger's words and the pool's fullness."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from raceday_dagster.store.engine import describe_utilisation
from raceday_dagster.store.ledger import LONGEST_KEY, make_key, make_storable
from raceday_dagster.store.race_write import ENTRANTS, RACE
from raceday_dagster.store.schema.partitions import choose_days, name_partition
from raceday_dagster.store.upsert import build_insert


def test_a_column_that_is_not_carried_is_not_in_the_statement() -> None:
    carried = build_insert(ENTRANTS, frozenset({"entrant_id", "race_id", "name"}), "rows")
    assert "jockey" not in carried
    assert "jockey" in build_insert(ENTRANTS, frozenset({"entrant_id", "race_id", "name", "jockey"}), "rows")


def test_columns_that_are_only_inserted_are_never_set() -> None:
    statement = build_insert(RACE, frozenset({"race_id", "racing_day", "name", "last_poll_time"}), "rows")
    inserted, updated = statement.split("DO UPDATE")
    assert "racing_day" in inserted
    assert "racing_day" not in updated


def test_bookkeeping_is_set_but_not_compared() -> None:
    statement = build_insert(RACE, frozenset({"race_id", "name", "last_poll_time"}), "rows")
    assert "last_poll_time = EXCLUDED.last_poll_time" in statement
    assert "ROW(stored.name) IS DISTINCT FROM ROW(EXCLUDED.name)" in statement


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (date(2025, 7, 17), "odds_history_2025_07_17"),
        (date(2024, 2, 29), "odds_history_2024_02_29"),
        (date(2026, 1, 1), "odds_history_2026_01_01"),
    ],
)
def test_a_partition_bears_its_racing_day(day: date, name: str) -> None:
    assert name_partition("odds_history", day) == name


def test_today_is_new_zealands_and_three_days_follow() -> None:
    late_in_utc = datetime(2025, 12, 30, 23, 30, tzinfo=UTC)
    assert choose_days(late_in_utc) == [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]


def test_asked_days_join_each_once() -> None:
    now = datetime(2025, 7, 17, 1, tzinfo=UTC)
    assert choose_days(now, [date(2025, 7, 1), date(2025, 7, 18)]) == [
        date(2025, 7, 1),
        *(date(2025, 7, day) for day in (17, 18, 19, 20)),
    ]


def test_what_postgresql_refuses_is_replaced_in_the_ledger() -> None:
    assert make_storable("a\x00b") == "a\N{REPLACEMENT CHARACTER}b"
    assert make_storable("half \ud800 pair") == "half ? pair"


def test_a_key_is_the_text_itself_or_a_short_one_that_no_other_text_has() -> None:
    assert make_key("race-1") == "race-1"
    texts = ["x" * 201, "x" * 202, "a\x00", "a\N{REPLACEMENT CHARACTER}", "a\ud800", "a?"]
    keys = [make_key(text) for text in texts]
    assert len(set(keys)) == len(texts)
    assert all(len(key) <= LONGEST_KEY and key == make_storable(key) for key in keys)


@pytest.mark.parametrize(
    ("in_use", "waiting", "percent", "level"),
    [(0, 0, 0, "info"), (6, 0, 60, "info"), (7, 0, 70, "warning"), (8, 0, 80, "error"), (6, 1, 60, "error")],
)
def test_a_pool_is_warned_about_from_seventy_percent(in_use: int, waiting: int, percent: int, level: str) -> None:
    use = describe_utilisation(in_use, 10, waiting, opened=2)
    assert (use.percent, use.level) == (percent, level)
    assert (use.opened, use.idle) == (max(2, in_use), max(2 - in_use, 0)), "what was never opened is not idle"
