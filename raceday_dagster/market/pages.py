"""The pages: templates filled with what was read, the same for the server and for ``raceday report``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from raceday_dagster.market import formats
from raceday_dagster.market.charts import draw_prices, draw_shares
from raceday_dagster.market.sheet import VIEWS, View, build_sheet
from raceday_dagster.market.views import DayView, RaceView, Row
from raceday_dagster.store.images import PREVIEW_TYPE, Silk
from raceday_dagster.store.schema.tables import POOL_TOTALS

HOME = "/races"
POOL_NAMES = {
    "win_pool_total": "Win",
    "place_pool_total": "Place",
    "quinella_pool_total": "Quinella",
    "trifecta_pool_total": "Trifecta",
    "exacta_pool_total": "Exacta",
    "first4_pool_total": "First 4",
    "total_race_pool": "All of this race",
    "multi_leg_pool_total": "Over several races",
}
GAINED_WITHIN = timedelta(minutes=5)
CATEGORIES = {"T": "Thoroughbred", "H": "Harness", "G": "Greyhound"}
assert set(POOL_NAMES) == set(POOL_TOTALS)


def render_day(day: DayView, *, is_file: bool = False) -> str:
    """Today, or another racing day; ``is_file``: to be read without a server."""
    return _render("day.html", is_file, day.now, day=day)


def render_race(
    race: RaceView, view: View = "win", *, is_file: bool = False, silks: Mapping[str, Silk] | None = None
) -> str:
    """A race, its grid in one view, or as a file in all three and with the pictures of ``silks``, by entrant."""
    card, now = race.race, race.now
    # What comes after the race is over changes nothing any more: the lines end where the answers do.
    until = min(now, card["stored_at"] or now) if card["is_over"] else now
    now_s = (card["start_time"] - until).total_seconds()
    return _render(
        "race.html",
        is_file,
        now,
        view=race,
        race=card,
        sheets=[build_sheet(race.runners, race.money, chosen) for chosen in (VIEWS if is_file else (view,))],
        charts=[
            chart
            for chart in (
                draw_prices(race.runners, race.prices, now_s),
                draw_shares(race.runners, race.shares, now_s),
            )
            if chart is not None
        ],
        pools=_compare_pools(race),
        silk_sources=_find_silk_sources(race, silks),
    )


def render_message(title: str, message: str) -> str:
    """A page that says what is wrong in a line."""
    return _render("message.html", False, datetime.now(UTC), title=title, message=message)


@cache
def read_static(name: str) -> bytes:
    """A file that the pages need. Raises ``FileNotFoundError`` for another name."""
    return files("raceday_dagster.market").joinpath("static", name).read_bytes()


def make_race_link(race_id: str) -> str:
    """The address of a race's page on this server."""
    return f"{HOME}/{quote(race_id, safe='')}"


def _find_silk_sources(race: RaceView, silks: Mapping[str, Silk] | None) -> dict[str, str]:
    """Where the picture of each runner's silk is: on this server, or in the page itself."""
    if silks is None:
        shown = (row["entrant_id"] for row in race.runners if row["has_silk"])
        return {entrant_id: f"{HOME}/silks/{quote(entrant_id, safe='')}" for entrant_id in shown}
    return {
        entrant_id: f"data:{PREVIEW_TYPE};base64,{base64.b64encode(silk.image).decode()}"
        for entrant_id, silk in silks.items()
    }


def _link_static(name: str) -> str:
    """The address of a file, another one when its content is."""
    return f"{HOME}/static/{name}?v={hashlib.sha256(read_static(name)).hexdigest()[:12]}"


def _compare_pools(race: RaceView) -> list[tuple[str, int, int | None]]:
    """The pools that hold money: name, cents, and how much came in during the five minutes before the newest total."""
    newest = race.pools[-1] if race.pools else None
    earlier: list[Row] = (
        [row for row in race.pools if newest["polled_at"] - row["polled_at"] >= GAINED_WITHIN] if newest else []
    )
    return [
        (name, race.race[column], race.race[column] - earlier[-1][column] if earlier else None)
        for column, name in POOL_NAMES.items()
        if race.race[column]
    ]


@cache
def _make_templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("raceday_dagster.market"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters |= {
        "dollars": formats.format_dollars,
        "number": formats.format_number,
        "change": formats.format_change,
        "clock": formats.format_clock,
        "zone": formats.format_zone,
        "day": formats.format_day,
        "span": formats.format_span,
        "to_start": formats.format_to_start,
    }
    templates.globals |= {
        "home": HOME,
        "race_link": make_race_link,
        "static": _link_static,
        "categories": CATEGORIES,
        "views": VIEWS,
        "stylesheet": read_static("style.css").decode(),
    }
    return templates


def _render(template: str, is_file: bool, now: datetime, **values: object) -> str:
    return _make_templates().get_template(template).render(is_file=is_file, now=now, **values)
