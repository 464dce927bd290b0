"""The grid of a race: a line a runner, a column a bucket of time, in one of three views. Pure.

A bucket's money is the sum of its increments without baselines, as ``money_flow_timeline`` has it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from raceday_dagster.market.formats import format_dollars, format_interval, format_number
from raceday_dagster.market.views import Row

View = Literal["win", "place", "odds"]
VIEWS: tuple[View, ...] = get_args(View)
BUCKETS = (*range(60, 5, -5), 5, 4, 3, 2, 1, 0)
"""Every race has these columns. Those after the start are there while money moved."""
TIERS = (5, 10, 15, 20, 25, 50)
"""Lower bounds, percent of the bucket's money: the darker the cell."""
_MONEY: dict[View, str] = {"win": "win_money", "place": "place_money"}


@dataclass(frozen=True)
class Cell:
    """What a runner did in a bucket."""

    text: str
    tone: str = ""
    """Its class: ``t1`` to ``t6`` by the runner's part of the bucket's money, ``in`` or ``out`` for a price that
    shortened or drifted, ``neg`` for money that left, ``zero`` for none."""
    title: str = ""


@dataclass(frozen=True)
class GridLine:
    """A runner and its cells, one for each bucket of the sheet."""

    runner: Row
    cells: list[Cell]


@dataclass(frozen=True)
class Sheet:
    """The grid in one view."""

    view: View
    buckets: list[str]
    latest: int
    """The place of the newest bucket that was seen; -1 for none."""
    lines: list[GridLine]
    totals: list[str]
    """All money of each bucket, dollars; empty in the view of prices."""


def build_sheet(runners: Iterable[Row], money: Iterable[Row], view: View) -> Sheet:
    """The grid of a race from ``race_grid`` and ``money_flow_timeline``, runners that do not run at the end."""
    known = {(row["entrant_id"], Decimal(row["time_interval"])): row for row in money}
    moved = [interval for (_, interval), row in known.items() if row["win_money"] or row["place_money"]]
    last = min((*moved, Decimal(0)))
    seen = {interval for _, interval in known if interval >= last}
    buckets = sorted({Decimal(bucket) for bucket in BUCKETS} | seen, reverse=True)
    ordered = sorted(runners, key=lambda row: (not row["is_runner"], row["runner_number"]))
    totals: list[int | None] = []
    if view != "odds":
        for bucket in buckets:
            amounts = [row[_MONEY[view]] for (_, interval), row in known.items() if interval == bucket]
            totals.append(sum(amount for amount in amounts if amount is not None) if amounts else None)
    lines = []
    for runner in ordered:
        rows = [known.get((runner["entrant_id"], bucket)) for bucket in buckets]
        cells = _price_cells(rows) if view == "odds" else _money_cells(rows, _MONEY[view], totals)
        lines.append(GridLine(runner, cells))
    return Sheet(
        view=view,
        buckets=[format_interval(bucket) for bucket in buckets],
        latest=buckets.index(min(seen)) if seen else -1,
        lines=lines,
        totals=["" if total is None else format_dollars(total) for total in totals],
    )


def _money_cells(rows: list[Row | None], column: str, totals: list[int | None]) -> list[Cell]:
    cells = []
    for row, total in zip(rows, totals, strict=True):
        amount = row[column] if row else None
        if amount is None:
            cells.append(Cell(""))
            continue
        part = 100 * amount / total if total else 0
        tier = bisect_right(TIERS, part) if amount > 0 else 0
        tone = "neg" if amount < 0 else f"t{tier}" if tier else "" if amount else "zero"
        cells.append(Cell(format_dollars(amount), tone, f"{part:.0f} % of the money of this interval" if total else ""))
    return cells


def _price_cells(rows: list[Row | None]) -> list[Cell]:
    cells = []
    before: Decimal | None = None
    for row in rows:
        price = row["fixed_win_odds"] if row else None
        if price is None:
            cells.append(Cell(""))
            continue
        tone = "" if before is None or price == before else "in" if price < before else "out"
        cells.append(Cell(format_number(price), tone, f"{format_number(before)} before" if tone else ""))
        before = price
    return cells
