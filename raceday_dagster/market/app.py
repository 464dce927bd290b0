"""The application at ``/races``: pages, their files, the stream of polls, and the same as JSON. It never writes.

Nothing is fetched from elsewhere: the policy that goes with every answer lets a browser load our own files alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raceday_dagster.errors import DatabaseError, SettingsError
from raceday_dagster.market.api import ReadHealth, find_race, make_api_routes
from raceday_dagster.market.events import PollEvents
from raceday_dagster.market.pages import HOME, read_static, render_day, render_message, render_race
from raceday_dagster.market.sheet import VIEWS, View
from raceday_dagster.market.views import MarketReader
from raceday_dagster.store.images import PREVIEW_TYPE

MEDIA_TYPES = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
RETRY_AFTER_S = "2"


class _WithHeaders:
    """Adds ``HEADERS`` to every answer that does not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def is_ours(path: str) -> bool:
    """Whether an address belongs to this application."""
    return path == HOME or path.startswith(f"{HOME}/")


def build_market_app(
    database_url: SecretStr | str | None,
    read_health: ReadHealth | None = None,
    *,
    listen_url: SecretStr | None = None,
    far_interval_s: int = 60,
) -> Starlette:
    """The application for a database; without one every page says so. Nothing connects before the first request.

    Its ``state.end_streams`` ends the streams, so that its server can stop.

    Args:
        read_health: What the service says of itself, where one started this server.
        far_interval_s: Seconds between two polls of a race more than 65 minutes away: three without an answer are late.
        listen_url: The same database without a pooler, where ``database_url`` is behind one.
    """
    if database_url is None:
        return _assemble([Route(f"{HOME}{{rest:path}}", _say_no_database)], lambda: None)
    market = MarketReader(database_url, far_interval_s)
    events = PollEvents(listen_url or database_url, market)

    def show_today(_request: Request) -> Response:
        return HTMLResponse(render_day(market.read_day()))

    def show_day(request: Request) -> Response:
        return HTMLResponse(render_day(market.read_day(parse_day(request.path_params["day"]))))

    def show_race(request: Request) -> Response:
        return HTMLResponse(render_race(find_race(market, request), _read_view(request)))

    def send_silk(request: Request) -> Response:
        silk = market.find_silk(request.path_params["entrant_id"])
        if silk is None:
            raise HTTPException(404, "there is no picture of this silk")
        return Response(silk.image, media_type=PREVIEW_TYPE, headers={"Cache-Control": "private, max-age=3600"})

    def stream_polls(request: Request) -> Response:
        stream = events.stream(request.query_params.get("race"))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return _assemble(
        [
            Route(HOME, show_today),
            Route(f"{HOME}/", lambda _request: RedirectResponse(HOME)),
            Route(f"{HOME}/days/{{day}}", show_day),
            Route(f"{HOME}/events", stream_polls),
            Route(f"{HOME}/static/{{name}}", _send_static),
            Route(f"{HOME}/silks/{{entrant_id:path}}", send_silk),
            *make_api_routes(market, parse_day, read_health),
            Route(f"{HOME}/{{race_id:path}}", show_race),
        ],
        events.end,
    )


def parse_day(text: str) -> date:
    """A racing day; raises ``HTTPException`` 404 for what is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise HTTPException(404, f"{text[:100]} is no day: write it like 2026-01-31") from None


def _assemble(routes: list[Route], end: Callable[[], None]) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_WithHeaders)],
        exception_handlers={
            HTTPException: _say_refused,
            DatabaseError: _say_unreadable,
            SettingsError: _say_unreadable,
        },
    )
    app.state.end_streams = end
    return app


def _read_view(request: Request) -> View:
    wanted = request.query_params.get("view")
    return next((view for view in VIEWS if view == wanted), "win")


def _send_static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in MEDIA_TYPES:
        raise HTTPException(404, "there is no such file")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"} if request.query_params.get("v") else {}
    return Response(read_static(name), media_type=MEDIA_TYPES[name], headers=headers)


def _say_no_database(_request: Request) -> Response:
    raise SettingsError("DATABASE_URL is not set where this server was started: set it to the database of the races")


def _say_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "Not here" if error.status_code == 404 else "Not this way"
    return _say(request, error.status_code, title, error.detail, dict(error.headers or {}))


def _say_unreadable(request: Request, error: Exception) -> Response:
    return _say(request, 503, "The database cannot be read", str(error), {"Retry-After": RETRY_AFTER_S})


def _say(request: Request, status: int, title: str, message: str, headers: dict[str, str]) -> Response:
    """One line, as JSON for whoever asked for JSON."""
    if request.url.path.startswith(f"{HOME}/api/"):
        return JSONResponse({"error": message}, status, headers)
    return HTMLResponse(render_message(title, message), status, headers)
