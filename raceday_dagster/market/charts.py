"""The lines of a race on an axis of time to the start: where each point goes. Pure; a template draws it as SVG.

The axis is the square root of the time, so that the last five minutes have a third of the width of the last hour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from raceday_dagster.market.formats import MINUS, format_number
from raceday_dagster.market.views import Row

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 34, 12, 34
COLOURED = 6
"""Runners whose line has a colour and a dash of its own: those with the largest share. The others are grey."""
LABEL_HEIGHT = 12
EARLIEST_S = 3_600
LATEST_S = -1_200
TIME_TICKS_MIN = (60, 45, 30, 20, 15, 10, 5, 2, 1, 0, -1, -2, -5, -10)
PRICE_TICKS = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1_000)

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where it is, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """The steps of one runner."""

    runner_number: int
    name: str
    style: str
    """Its class in the stylesheet: ``s0`` to ``s5``, or ``rest``."""
    path: str
    end_x: float
    end_y: float
    label_y: float
    """Beside the end, moved so that labels do not cover each other."""
    last: str
    """The last value, as text with its unit."""


@dataclass(frozen=True)
class Chart:
    """Everything the template needs; coordinates in a box of ``WIDTH`` by ``HEIGHT``."""

    title: str
    unit: str
    time_ticks: list[Tick]
    value_ticks: list[Tick]
    lines: list[Line]
    start_x: float | None
    """Where the advertised start is, if it is in sight."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def choose_styles(runners: Iterable[Row]) -> dict[str, str]:
    """The style of each runner's line, by entrant: the largest shares first."""
    running = [row for row in runners if row["is_runner"]]
    ranked = sorted(running, key=lambda row: (-(row["hold_percentage"] or 0), row["runner_number"]))
    return {row["entrant_id"]: f"s{rank}" if rank < COLOURED else "rest" for rank, row in enumerate(ranked)}


def draw_prices(runners: list[Row], prices: Iterable[Row], now_s: float) -> Chart | None:
    """Fixed odds to win; ``now_s``: seconds to the start until which the last price holds."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in prices:
        if row["type"] == "fixed_win":
            points.setdefault(row["entrant_id"], []).append((row["seconds_to_start"], float(row["odds"])))
    return _draw("Fixed odds to win", "dollars for 1", runners, points, now_s, "price")


def draw_shares(runners: list[Row], shares: Iterable[Row], now_s: float) -> Chart | None:
    """The share of the money, percent."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in shares:
        points.setdefault(row["entrant_id"], []).append((row["seconds_to_start"], float(row["hold_percentage"])))
    return _draw("Share of the money", "percent", runners, points, now_s, "share")


def _draw(
    title: str,
    unit: str,
    runners: list[Row],
    points: Mapping[str, list[tuple[float, float]]],
    now_s: float,
    kind: Literal["price", "share"],
) -> Chart | None:
    """``None`` when there is nothing to draw, as of a race that starts later than the axis begins."""
    shown = {row["entrant_id"]: row for row in runners if row["is_runner"] and points.get(row["entrant_id"])}
    if not shown or now_s >= EARLIEST_S:
        return None
    values = [value for entrant in shown for _, value in points[entrant]]
    earliest = min(max(60, *(points[entrant][0][0] for entrant in shown)), EARLIEST_S)
    latest = max(min(now_s, 0), LATEST_S)
    scale_x = _scale(_root(earliest), _root(latest), LEFT, WIDTH - RIGHT)
    scale_time: Scale = lambda seconds: scale_x(_root(min(max(seconds, latest), earliest)))  # noqa: E731
    low, high, ticks = _choose_prices(values) if kind == "price" else _choose_shares(values)
    scale_y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    scale_value: Scale = (lambda value: scale_y(math.log(value))) if kind == "price" else scale_y
    styles = choose_styles(runners)
    ends_x = scale_time(now_s)
    lines = []
    for entrant, row in shown.items():
        path, end_y = _step(points[entrant], scale_time, scale_value, ends_x)
        last = points[entrant][-1][1]
        shown_last = f"${format_number(last)}" if kind == "price" else f"{format_number(last, 0)} %"
        number, name = row["runner_number"], row["name"]
        lines.append(Line(number, name, styles[entrant], path, ends_x, end_y, end_y, shown_last))
    return Chart(
        title=title,
        unit=unit,
        time_ticks=[
            Tick(scale_time(60 * minute), f"{MINUS if minute < 0 else ''}{abs(minute)}")
            for minute in TIME_TICKS_MIN
            if latest <= 60 * minute <= earliest
        ],
        value_ticks=[Tick(scale_value(value), f"{value:g}") for value in ticks],
        lines=_spread_labels(sorted(lines, key=lambda line: line.style, reverse=True)),
        start_x=scale_time(0) if latest < 0 else None,
    )


def _root(seconds: float) -> float:
    return math.copysign(math.sqrt(abs(seconds)), seconds)


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    """Maps ``low`` to ``first`` and ``high`` to ``last``."""
    span = (high - low) or 1.0
    return lambda value: round(first + (value - low) / span * (last - first), 1)


def _choose_prices(values: list[float]) -> tuple[float, float, list[float]]:
    low = max(tick for tick in PRICE_TICKS if tick <= max(min(values), 1))
    high = next((tick for tick in PRICE_TICKS if tick >= max(values) and tick > low), max(values))
    return math.log(low), math.log(high), [tick for tick in PRICE_TICKS if low <= tick <= high]


def _choose_shares(values: list[float]) -> tuple[float, float, list[float]]:
    top = max(10, math.ceil(max(values) / 10) * 10)
    step = 5 if top <= 30 else 10 if top <= 60 else 20
    return 0, top, list(range(0, top + 1, step))


def _step(points: list[tuple[float, float]], scale_time: Scale, scale_value: Scale, ends_x: float) -> tuple[str, float]:
    """A path of steps, since a value holds until the next one, and the height at which it ends."""
    (first_s, value), *rest = points
    y = scale_value(value)
    path = [f"M{scale_time(first_s)} {y}"]
    for seconds, value in rest:
        if (new_y := scale_value(value)) != y:
            path.append(f"H{scale_time(seconds)}V{new_y}")
            y = new_y
    return f"{''.join(path)}H{ends_x}", y


def _spread_labels(lines: list[Line]) -> list[Line]:
    """Moves the labels apart, downwards from the highest, then back up from the bottom of the chart."""
    ordered = sorted(lines, key=lambda line: line.end_y)
    heights: list[float] = []
    for line in ordered:
        heights.append(max(line.end_y, heights[-1] + LABEL_HEIGHT) if heights else line.end_y)
    floor = float(HEIGHT - BOTTOM)
    for index in range(len(heights) - 1, -1, -1):
        heights[index] = min(heights[index], floor)
        floor = heights[index] - LABEL_HEIGHT
    moved = {line.runner_number: height for line, height in zip(ordered, heights, strict=True)}
    return [Line(**{**vars(line), "label_y": round(moved[line.runner_number], 1)}) for line in lines]
