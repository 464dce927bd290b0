"""The grid of a race: every bucket a column, the money of each runner in it, and what the colour of a cell says."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from raceday_dagster.market.sheet import BUCKETS, build_sheet


def make_runner(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "entrant_id": f"e{number}",
        "runner_number": number,
        "name": f"Runner {number}",
        "is_runner": True,
        **changes,
    }


def make_money(interval: str, cents: Mapping[int, int | None], price: str = "2.50") -> list[dict[str, Any]]:
    return [
        {
            "entrant_id": f"e{number}",
            "time_interval": Decimal(interval),
            "win_money": amount,
            "place_money": None if amount is None else amount // 2,
            "fixed_win_odds": Decimal(price),
        }
        for number, amount in cents.items()
    ]


RUNNERS = [make_runner(number) for number in (1, 2, 3, 4)]
BEFORE = {1: 10_000, 2: 8_000, 3: 6_000, 4: 4_000}
"""The worked example of a money signal: 100, 80, 60 and 40 dollars, then 100 for the fourth runner."""


def test_every_bucket_of_the_last_hour_is_a_column_and_those_after_the_start_only_while_money_moved() -> None:
    empty = build_sheet(RUNNERS, [], "win")
    assert empty.buckets == ["60+", *map(str, BUCKETS[1:])]
    assert (empty.latest, {cell.text for line in empty.lines for cell in line.cells}) == (-1, {""})
    after = [*make_money("-0.5", {1: 0}), *make_money("-1", {1: 100}), *make_money("-1.5", {1: 0})]
    assert build_sheet(RUNNERS, after, "win").buckets[-3:] == ["0", "−½", "−1"]  # noqa: RUF001


def test_the_newest_bucket_before_the_start_is_marked_though_no_money_came_in_it() -> None:
    sheet = build_sheet(RUNNERS, [*make_money("5", BEFORE), *make_money("4", {1: 0, 2: None})], "win")
    assert sheet.buckets[sheet.latest] == "4"


def test_a_cell_is_as_dark_as_the_runner_s_part_of_the_interval_s_money() -> None:
    money = [
        *make_money("5", BEFORE),
        *make_money("4", BEFORE | {4: 10_000}),
        *make_money("3", {1: -500, 2: 0, 3: None}),
    ]
    sheet = build_sheet(RUNNERS, money, "win")
    five, four, three = (sheet.buckets.index(name) for name in "543")
    fourth = sheet.lines[3].cells
    assert (fourth[five].text, fourth[five].tone) == ("40", "t2")  # 14.29 %
    assert (fourth[four].text, fourth[four].tone) == ("100", "t5")  # 29.41 %
    assert [sheet.lines[row].cells[three].tone for row in range(4)] == ["neg", "zero", "", ""]
    assert (sheet.totals[five], sheet.totals[four], sheet.totals[0]) == ("280", "340", "")
    assert sheet.latest == three
    assert build_sheet(RUNNERS, money, "place").lines[3].cells[four].text == "50"


def test_the_view_of_prices_marks_what_shortened_and_what_drifted() -> None:
    money = [*make_money("5", {1: 0}, "12.00"), *make_money("4", {1: 0}, "7.00"), *make_money("3", {1: 0}, "7.00")]
    sheet = build_sheet(RUNNERS, [*money, *make_money("2", {1: 0}, "8.00")], "odds")
    cells = [cell for cell in sheet.lines[0].cells if cell.text]
    assert [(cell.text, cell.tone) for cell in cells] == [("12.00", ""), ("7.00", "in"), ("7.00", ""), ("8.00", "out")]
    assert sheet.totals == []


def test_a_runner_that_does_not_run_is_at_the_end() -> None:
    sheet = build_sheet([make_runner(1, is_runner=False), make_runner(2)], [], "win")
    assert [line.runner["runner_number"] for line in sheet.lines] == [2, 1]
