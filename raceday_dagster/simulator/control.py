"""The control plane under `/_simulator/`: the clock, the faults, and how much has been asked.

It is what a test or an operator does to a running simulator. A request that makes no sense gets 400 and
`{"error": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raceday_dagster.simulator.clock import SimulatedClock
from raceday_dagster.simulator.faults import FaultBook, FaultError


@dataclass
class RequestCounts:
    """Requests from one reset to the next, and how many are open: of all, and of those for an event or an image."""

    total: int = 0
    in_flight: int = 0
    in_flight_peak: int = 0
    events_in_flight: int = 0
    events_in_flight_peak: int = 0


class RequestLog:
    """How much has been asked of the API."""

    def __init__(self) -> None:
        self.counts = RequestCounts()

    @contextmanager
    def track(self, *, is_event: bool) -> Iterator[None]:
        """Count a request while it is in flight."""
        # Held on to, so that a request from before a reset is not taken off the count after it.
        counts = self.counts
        counts.total += 1
        counts.in_flight += 1
        counts.in_flight_peak = max(counts.in_flight_peak, counts.in_flight)
        counts.events_in_flight += is_event
        counts.events_in_flight_peak = max(counts.events_in_flight_peak, counts.events_in_flight)
        try:
            yield
        finally:
            counts.in_flight -= 1
            counts.events_in_flight -= is_event


def build_control(clock: SimulatedClock, faults: FaultBook, log: RequestLog) -> Starlette:
    """The control plane as an application of its own."""

    async def clock_route(request: Request) -> Response:
        if request.method == "PUT":
            wish = await _read_object(request)
            now = wish.get("now")
            clock.set(now=None if now is None else datetime.fromisoformat(now), speed=wish.get("speed"))
            clock.advance(wish.get("advance_s", 0))
        return JSONResponse({"now": clock.now().isoformat()})

    async def faults_route(request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse({"id": faults.add(**await _read_object(request)).rule_id}, status_code=201)
        if request.method == "DELETE":
            faults.clear()
        return JSONResponse({"faults": faults.describe()})

    async def release_route(_request: Request) -> Response:
        return JSONResponse({"released": faults.release()})

    async def requests_route(request: Request) -> Response:
        if request.method == "DELETE":
            log.counts = RequestCounts()
        return JSONResponse(asdict(log.counts))

    return Starlette(
        routes=[
            Route("/clock", clock_route, methods=["GET", "PUT"]),
            Route("/faults", faults_route, methods=["GET", "POST", "DELETE"]),
            Route("/release", release_route, methods=["POST"]),
            Route("/requests", requests_route, methods=["GET", "DELETE"]),
        ],
        exception_handlers={ValueError: _refuse, TypeError: _refuse},
    )


async def _refuse(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _read_object(request: Request) -> dict[str, Any]:
    wish = json.loads(await request.body() or b"{}")
    if not isinstance(wish, dict):
        raise FaultError("a JSON object is wanted")
    return wish
