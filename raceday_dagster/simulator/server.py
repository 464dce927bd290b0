"""The simulator as an HTTP server: the API under its base path, the control plane beside it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from raceday_dagster.simulator.answers import JSON, FaultyApi
from raceday_dagster.simulator.clock import SimulatedClock
from raceday_dagster.simulator.control import RequestLog, build_control
from raceday_dagster.simulator.day import NEW_ZEALAND, PROGRAMME, RaceDay
from raceday_dagster.simulator.event import build_event, wrap_error
from raceday_dagster.simulator.faults import FaultBook
from raceday_dagster.simulator.meetings import BadQueryError, list_meetings
from raceday_dagster.simulator.silks import INVENTED_HOST, SILKS_PATH, serve_silk
from raceday_dagster.simulator.vision import VISION_PATH, describe_asked_image

BASE_PATH = "/affiliates/v1"
_EVENTS = "/racing/events/"


def build_app(day: RaceDay, clock: SimulatedClock, *, latency_ms: float = 0) -> Starlette:
    """The whole simulator as an ASGI application. Every race event waits `latency_ms` before it is answered.

    Faults on the wire (drip_body, truncated, reset) need the server of `serve`.
    """
    faults, log, latency_s = FaultBook(), RequestLog(), latency_ms / 1000
    api = FaultyApi(faults, log, _Racing(day, clock).build_answer, slow_path=BASE_PATH + _EVENTS, latency_s=latency_s)
    vision = FaultyApi(faults, log, describe_asked_image, slow_path=VISION_PATH, latency_s=latency_s)
    return Starlette(
        routes=[
            Mount("/_simulator", app=build_control(clock, faults, log)),
            Route(SILKS_PATH + "/{name:path}", serve_silk),
            Mount(VISION_PATH, app=vision),
            Mount("/", app=GZipMiddleware(api, minimum_size=0, compresslevel=1)),
        ]
    )


class _Racing:
    """The racing API: finds the answer for a path and an instant."""

    def __init__(self, day: RaceDay, clock: SimulatedClock) -> None:
        self._day, self._clock = day, clock

    async def build_answer(self, request: Request, kind: str, params: dict[str, Any]) -> Response:
        """What the API answers, with the faults `status` and `old_answer`."""
        instant = self._clock.now()
        if kind == "old_answer":
            instant -= timedelta(seconds=params["age_s"])
        status, payload = self._find_payload(request, instant)
        if kind == "status":
            status = params["code"]
            payload = wrap_error("simulated fault", status, request.url.path, instant)
        silks = f"http://{request.headers.get('host', '127.0.0.1')}{SILKS_PATH}".encode("latin-1")
        return Response(bytes(JSONResponse(payload).body).replace(INVENTED_HOST, silks), status, media_type=JSON)

    def _find_payload(self, request: Request, instant: datetime) -> tuple[int, dict[str, Any]]:
        """(status, payload) of a request at an instant; unknown parameters are ignored."""
        query: Mapping[str, str] = request.query_params
        url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        path = request.url.path.removeprefix(BASE_PATH).rstrip("/")
        if path == "/racing/meetings":
            try:
                return 200, list_meetings(self._day, instant, query, url)
            except BadQueryError as error:
                return 400, wrap_error(str(error), 400, url, instant)
        race = self._day.find_race(path.removeprefix(_EVENTS)) if path.startswith(_EVENTS) else None
        if race is None:
            return 404, wrap_error("not found", 404, url, instant)
        return 200, build_event(race, instant, query, url)


class _OpenProtocol(H11Protocol):
    """HTTP/1.1 that lets the application reach the connection underneath, in the state of each request."""

    # The override is narrower than asyncio's own class, as the one it overrides is.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def serve(
    announce: Callable[[str], None],
    *,
    port: int = 0,
    seed: int = 1,
    racing_day: date | None = None,
    first_start: datetime | None = None,
    now: datetime | None = None,
    speed: float = 1.0,
    latency_ms: float = 0,
    meetings: int = len(PROGRAMME),
) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, then return.

    port: 0 takes any free one. `announce` is called once with the real base URL, before which nothing answers.
    racing_day: default today in New Zealand. now: where the clock starts, default ten minutes before the first
    race. OSError when the port is taken; ValueError for a negative speed.
    """
    day = RaceDay(seed, racing_day or datetime.now(NEW_ZEALAND).date(), first_start, meetings)
    clock = SimulatedClock((now or day.first_start - timedelta(minutes=10)).astimezone(UTC), speed)
    # SIGTERM ends it as Ctrl-C does, and both end it quietly, also where the parent had them ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    # Named as TCP, or asyncio leaves Nagle's algorithm on and every answer on a kept connection waits 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener, suppress(KeyboardInterrupt):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        config = uvicorn.Config(
            build_app(day, clock, latency_ms=latency_ms),
            http=_OpenProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        announce(f"http://127.0.0.1:{listener.getsockname()[1]}{BASE_PATH}")
        uvicorn.Server(config).run(sockets=[listener])


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
