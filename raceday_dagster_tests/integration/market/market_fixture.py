"""Races on a test's database as a page finds them, and a client of the pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

from starlette.testclient import TestClient

from raceday_dagster.market.app import build_market_app
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.store_fixture import write
from raceday_dagster_tests.write_snapshots import HOLDS, START, make_snapshot

DAY = START.date()
MINUTES = {10: "10", 4: "4", 3: "3"}
"""The polls of a race: minutes to the start, and their bucket."""
SHIFTED = {**HOLDS, 2: 19, 6: 13}


@contextmanager
def open_client(database_url: str | None) -> Iterator[TestClient]:
    """A client of the pages of a database; an error that no page expects is raised."""
    app = build_market_app(database_url)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def make_poll(race_id: str, minutes: int, **changes: Any) -> RaceSnapshot:
    """A poll so many minutes before the start, of an answer as old."""
    made_at = START - timedelta(minutes=minutes)
    snapshot = make_snapshot(race_id, generated_at=made_at, **changes)
    return snapshot.model_copy(update={"time_interval": Decimal(MINUTES.get(minutes, minutes))})


def write_polled_race(store: RaceStore, race_id: str = "race-1", **changes: Any) -> None:
    """Three polls of a race: money comes in, two runners change places, the prices shorten."""
    for minutes, holds, cents, price in (
        (10, HOLDS, 500_000, "9"),
        (4, HOLDS, 800_000, "8"),
        (3, SHIFTED, 915_138, "6"),
    ):
        prices = {(number, "fixed_win"): price for number in holds}
        entrant = {"fixed_win_odds": Decimal(price), "win_pool_amount": cents // 10}
        snapshot = make_poll(race_id, minutes, holds=holds, win_cents=cents, odds=prices, entrant=entrant, **changes)
        flow = tuple(row.model_copy(update={"fixed_win_odds": Decimal(price)}) for row in snapshot.money_flow)
        write(store, snapshot.model_copy(update={"money_flow": flow}), run_id=f"{race_id}-{minutes}")


def move_to_now(run: Any, race_id: str, *, to_start: timedelta = timedelta(minutes=2)) -> None:
    """Lets a stored race start soon, its polls as far before the start as they were."""
    shift = datetime.now(UTC) + to_start - START
    values = {"race_id": race_id, "shift": shift}
    run("UPDATE races SET start_time = start_time + %(shift)s WHERE race_id = %(race_id)s", values)
    run("UPDATE race_polls SET polled_at = polled_at + %(shift)s WHERE race_id = %(race_id)s", values)


class _Cells(HTMLParser):
    """The text of each table's rows, cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def read_tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, as a reader sees them."""
    parser = _Cells()
    parser.feed(page)
    return parser.tables


def read_line(page: str, runner: str) -> Mapping[str, str]:
    """The grid's line of a runner, by the heads of its columns."""
    (_groups, heads, *lines) = read_tables(page)[0]
    (line,) = [cells for cells in lines if cells[1].startswith(runner)]
    return dict(zip([*heads[:2], "Fixed win", "Fixed place", *heads[4:]], line, strict=True))
