"""The control plane under `/_simulator/`: the clock, the faults, and what has been asked.

Belongs here: what a test or an operator does to a running simulator. Does not belong here: the API itself.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raceday_dagster.simulator.clock import SimulatedClock
from raceday_dagster.simulator.faults import FaultBook, FaultError

_RECENT = 500


class _Counters:
    """One count of requests, from one reset to the next."""

    def __init__(self) -> None:
        self.total = 0
        self.in_flight = self.in_flight_peak = 0
        self.events_in_flight = self.events_in_flight_peak = 0
        self.by_path: Counter[str] = Counter()
        self.recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)


class RequestLog:
    """What has been asked of the API: counters, peaks, and the last requests with the names of their headers."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start counting again from nothing: requests still in flight are not counted any more."""
        self._counters = _Counters()

    @contextmanager
    def track(self, request: Request, *, is_event: bool) -> Iterator[dict[str, Any]]:
        """Count a request while it is in flight. The entry's `status` stays None when no head was sent."""
        entry = {
            "path": request.url.path,
            "query": request.url.query,
            "status": None,
            "headers": sorted(set(request.headers.keys())),
        }
        # Held on to, so that a request from before a reset is not taken off the count after it.
        counters = self._counters
        counters.total += 1
        counters.by_path[request.url.path] += 1
        counters.recent.append(entry)
        counters.in_flight += 1
        counters.events_in_flight += is_event
        counters.in_flight_peak = max(counters.in_flight_peak, counters.in_flight)
        counters.events_in_flight_peak = max(counters.events_in_flight_peak, counters.events_in_flight)
        try:
            yield entry
        finally:
            counters.in_flight -= 1
            counters.events_in_flight -= is_event

    def describe(self) -> dict[str, Any]:
        """All of it as JSON."""
        counters = vars(self._counters).copy()
        del counters["events_in_flight"]
        return counters | {"recent": list(self._counters.recent)}


def build_control_routes(clock: SimulatedClock, faults: FaultBook, log: RequestLog) -> list[Route]:
    """The routes of the control plane. A request that makes no sense gets 400 and `{"error": ...}`."""

    async def clock_route(request: Request) -> Response:
        if request.method == "PUT":
            wish = await _read_object(request)
            now = wish.get("now")
            clock.set(now=None if now is None else datetime.fromisoformat(now), speed=wish.get("speed"))
            clock.advance(wish.get("advance_s", 0))
        return JSONResponse({"now": clock.now().isoformat(), "speed": clock.speed})

    async def faults_route(request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse({"id": faults.add(await _read_object(request)).rule_id}, status_code=201)
        if request.method == "DELETE":
            faults.clear()
        return JSONResponse({"faults": faults.describe()})

    async def release_route(_request: Request) -> Response:
        return JSONResponse({"released": faults.release()})

    async def requests_route(request: Request) -> Response:
        if request.method == "DELETE":
            log.reset()
        return JSONResponse(log.describe())

    return [
        Route("/clock", _answer_nonsense(clock_route), methods=["GET", "PUT"]),
        Route("/faults", _answer_nonsense(faults_route), methods=["GET", "POST", "DELETE"]),
        Route("/release", release_route, methods=["POST"]),
        Route("/requests", requests_route, methods=["GET", "DELETE"]),
    ]


_Handler = Callable[[Request], Awaitable[Response]]


def _answer_nonsense(handler: _Handler) -> _Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except (FaultError, ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


async def _read_object(request: Request) -> dict[str, Any]:
    wish = json.loads(await request.body() or b"{}")
    if not isinstance(wish, dict):
        raise FaultError("a JSON object is wanted")
    return wish
