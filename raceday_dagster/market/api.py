"""The pages as JSON, for models and scripts. ``openapi.json`` says what each answer holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raceday_dagster.market.pages import HOME, read_static
from raceday_dagster.market.views import DayView, MarketReader, RaceView, Row

API = f"{HOME}/api"
_OF_A_DAY = ("now", "racing_day")
_OF_A_MEETING = ("meeting_id", "meeting_name", "country", "category", "racing_day")
_OF_A_RACE = ("now", "race", "runners", "at_start", "pools", "result", "dividends", "signals", "polls")

ReadHealth: TypeAlias = Callable[[], dict[str, Any]]
"""Gives ``healthy`` and ``checks``, as ``raceday health --json`` prints them."""


def make_api_routes(
    market: MarketReader, parse_day: Callable[[str], date], read_health: ReadHealth | None = None
) -> list[Route]:
    """The routes below ``/races/api``."""

    def read_day_of(request: Request) -> date | None:
        wanted = request.query_params.get("day")
        return None if wanted is None else parse_day(wanted)

    def list_meetings(request: Request) -> Response:
        return _send(_describe_meetings(market.read_day(read_day_of(request))))

    def list_races(request: Request) -> Response:
        return _send(_choose(market.read_day(read_day_of(request)), *_OF_A_DAY, "is_listed", "races", "signals"))

    def show_race(request: Request) -> Response:
        return _send(_choose(find_race(market, request), *_OF_A_RACE))

    def list_entrants(request: Request) -> Response:
        return _send(_describe_entrants(find_race(market, request)))

    def show_health(_request: Request) -> Response:
        health = market.read_health()
        followed = health["is_listed"] and not health["races_without_answer"]
        service = {"healthy": followed, "checks": []} if read_health is None else read_health()
        return _send({**health, **service})

    def describe(_request: Request) -> Response:
        return Response(read_static("openapi.json"), media_type="application/json")

    return [
        Route(f"{API}/meetings", list_meetings),
        Route(f"{API}/races", list_races),
        Route(f"{API}/races/{{race_id:path}}/entrants", list_entrants),
        Route(f"{API}/races/{{race_id:path}}", show_race),
        Route(f"{API}/health", show_health),
        Route(f"{API}/openapi.json", describe),
    ]


def find_race(market: MarketReader, request: Request) -> RaceView:
    """The race that an address names; raises ``HTTPException`` 404 for one that is not stored."""
    race_id = request.path_params["race_id"]
    found = market.read_race(race_id)
    if found is None:
        raise HTTPException(404, f"no race {race_id[:100]} is stored")
    return found


def _choose(view: DayView | RaceView, *names: str) -> dict[str, Any]:
    return {name: getattr(view, name) for name in names}


def _describe_meetings(day: DayView) -> dict[str, Any]:
    meetings = [
        {
            **{name: races[0][name] for name in _OF_A_MEETING},
            "races": [{"race_id": race["race_id"], "race_number": race["race_number"]} for race in races],
        }
        for races in day.meetings
    ]
    return {**_choose(day, *_OF_A_DAY), "meetings": meetings}


def _describe_entrants(found: RaceView) -> dict[str, Any]:
    histories = {"money": found.money, "prices": found.prices, "shares": found.shares}
    entrants = [
        {**runner, **{name: _of(runner["entrant_id"], rows) for name, rows in histories.items()}}
        for runner in found.runners
    ]
    return {"now": found.now, "race_id": found.race["race_id"], "entrants": entrants}


def _of(entrant_id: str, rows: list[Row]) -> list[Row]:
    """The rows of an entrant, without what its own line says already."""
    named = {"race_id", "entrant_id", "runner_number", "name"}
    return [
        {name: value for name, value in row.items() if name not in named}
        for row in rows
        if row["entrant_id"] == entrant_id
    ]


def _send(content: object) -> Response:
    return Response(json.dumps(content, default=_write, ensure_ascii=False), media_type="application/json")


def _write(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
