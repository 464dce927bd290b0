"""The lines of a race: where they run, how they end, and that their labels can be read."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import pairwise
from typing import Any

from raceday_dagster.market.charts import (
    COLOURED,
    EARLIEST_S,
    LABEL_HEIGHT,
    Chart,
    choose_styles,
    draw_prices,
    draw_shares,
)


def make_runner(number: int, share: int, **changes: Any) -> dict[str, Any]:
    known = {"entrant_id": f"e{number}", "runner_number": number, "name": f"Runner {number}", "is_runner": True}
    return {**known, "hold_percentage": Decimal(share), **changes}


def make_share(number: int, seconds: int, share: int) -> dict[str, Any]:
    return {"entrant_id": f"e{number}", "seconds_to_start": seconds, "hold_percentage": Decimal(share)}


def find(chart: Chart, number: int) -> Any:
    (line,) = [line for line in chart.lines if line.runner_number == number]
    return line


def test_a_share_is_a_line_of_steps_that_holds_until_now() -> None:
    shares = [make_share(1, 600, 12), make_share(1, 300, 12), make_share(1, 45, 18)]
    chart = draw_shares([make_runner(1, 18)], shares, now_s=15)
    assert chart is not None
    path = find(chart, 1).path
    (step,) = re.findall(r"H([\d.]+)V([\d.]+)", path)
    start, now = chart.right, find(chart, 1).end_x
    assert chart.left < float(step[0]) < now < start
    assert path.endswith(f"V{step[1]}H{now}")
    assert find(chart, 1).last == "18 %"
    labels = [tick.label for tick in chart.time_ticks]
    assert labels == ["10", "5", "2", "1", "0"]
    assert (chart.time_ticks[-1].at, chart.start_x) == (start, None)


def test_the_last_five_minutes_have_more_room_than_the_clock_gives_them() -> None:
    chart = draw_shares([make_runner(1, 10)], [make_share(1, 4_000, 10)], now_s=-60)
    assert chart is not None
    places = {tick.label: tick.at for tick in chart.time_ticks}
    assert (places["0"] - places["5"]) * 12 > 3 * (places["0"] - places["60"])
    assert chart.start_x == places["0"] < chart.right


def test_prices_are_on_a_scale_of_ratios() -> None:
    prices = [
        {"entrant_id": f"e{number}", "type": kind, "seconds_to_start": 60, "odds": Decimal(odds)}
        for number, kind, odds in ((1, "fixed_win", "1.5"), (2, "fixed_win", "10"), (1, "pool_win", "900"))
    ]
    chart = draw_prices([make_runner(1, 50), make_runner(2, 10)], prices, now_s=30)
    assert chart is not None
    heights = {tick.label: tick.at for tick in chart.value_ticks}
    assert set(heights) == {"1.5", "2", "3", "5", "7", "10"}
    assert abs((heights["1.5"] - heights["3"]) - (heights["5"] - heights["10"])) < 0.5
    assert find(chart, 2).end_y == heights["10"] < find(chart, 1).end_y == heights["1.5"]


def test_runners_that_do_not_run_have_no_line_and_a_race_without_any_has_no_chart() -> None:
    shares = [make_share(1, 60, 10), make_share(2, 60, 20)]
    chart = draw_shares([make_runner(1, 10), make_runner(2, 20, is_runner=False)], shares, now_s=0)
    assert chart is not None
    assert [line.runner_number for line in chart.lines] == [1]
    assert draw_shares([make_runner(1, 10)], [], now_s=0) is None


def test_a_race_that_starts_later_than_the_axis_begins_has_no_chart() -> None:
    runners, shares = [make_runner(1, 10)], [make_share(1, 120, 10)]
    assert draw_shares(runners, shares, now_s=EARLIEST_S) is None
    assert draw_shares(runners, shares, now_s=EARLIEST_S - 1) is not None


def test_labels_of_equal_shares_do_not_cover_each_other_and_stay_in_the_picture() -> None:
    runners = [make_runner(number, 2) for number in range(1, 21)]
    chart = draw_shares(runners, [make_share(number, 60, 2) for number in range(1, 21)], now_s=0)
    assert chart is not None
    heights = sorted(line.label_y for line in chart.lines)
    assert min(after - before for before, after in pairwise(heights)) >= LABEL_HEIGHT - 0.1
    assert heights[0] >= 0
    assert heights[-1] <= chart.bottom


def test_the_largest_shares_have_a_colour_and_a_dash_of_their_own() -> None:
    styles = choose_styles([make_runner(number, number) for number in range(1, 10)])
    assert [styles[f"e{number}"] for number in range(9, 0, -1)] == [
        *(f"s{rank}" for rank in range(COLOURED)),
        *["rest"] * 3,
    ]
