"""Sending an answer, whole or broken on its way.

A connection that ends too early is closed by its transport, which `server` puts into the request's state.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raceday_dagster.simulator.control import RequestLog
from raceday_dagster.simulator.faults import PAUSES, WIRE, FaultBook, FaultRule

_STEP_S = 0.05
JSON = "application/json; charset=utf-8"
BuildAnswer = Callable[[Request, str, dict[str, Any]], Awaitable[Response]]
SAME_ALWAYS = {
    "html": (
        "text/html; charset=utf-8",
        "<!doctype html><html><head><title>Down for maintenance</title></head><body>Back soon.</body></html>",
    ),
    "garbage": (JSON, '{"header": {"title": "Event'),
}
"""Media type and content of the faults that do not look at the request."""


class FaultyApi:
    """An API as an ASGI application, whose answers meet the faults in force.

    `build` is given a request and the kind and parameters of the fault that is left for it, an empty kind without one.
    `slow_path`: how the paths begin that wait `latency_s` before anything else.
    """

    def __init__(
        self, faults: FaultBook, log: RequestLog, build: BuildAnswer, *, slow_path: str, latency_s: float
    ) -> None:
        self._faults, self._log, self._build = faults, log, build
        self._slow_path, self._latency_s = slow_path, latency_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()  # what comes after it on the channel says only that the client has gone
        is_slow = request.url.path.startswith(self._slow_path)
        with self._log.track(is_event=is_slow):
            rules = self._faults.take(request.url.path)
            if is_slow and self._latency_s:
                await wait_unless_gone(asyncio.sleep(self._latency_s), receive)
            kind, params = "", dict[str, Any]()
            for rule in rules:
                if rule.kind in PAUSES:
                    await pause(rule, receive)
                else:
                    kind, params = rule.kind, rule.params
            if kind in SAME_ALWAYS:
                media_type, content = SAME_ALWAYS[kind]
                answer = Response(content, media_type=media_type)
            else:
                answer = await self._build(request, kind, params)
            if params.get("retry_after"):
                answer.headers["retry-after"] = str(params["retry_after"])
            if kind in WIRE:
                await send_broken(kind, params, answer, scope["state"]["transport"], receive, send)
            else:
                await answer(scope, receive, send)


async def send_broken(
    kind: str, params: Mapping[str, Any], answer: Response, transport: asyncio.Transport, receive: Receive, send: Send
) -> None:
    """Send it as the wire fault says, close the connection, and wait until it is gone."""
    if kind == "reset":
        # Without the goodbye of TCP: the client sees a connection reset by its peer.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        body = bytes(answer.body)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        if kind == "truncated":
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        else:
            await wait_unless_gone(_drip(body, params["bytes_per_s"], send), receive)
        transport.close()
    await wait_for_disconnect(receive)


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def wait_unless_gone(
    awaited: Coroutine[Any, Any, object], receive: Receive, timeout_s: float | None = None
) -> None:
    """Wait for something, but no longer than `timeout_s` and not after the client has gone."""
    tasks = [asyncio.create_task(awaited), asyncio.create_task(wait_for_disconnect(receive))]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def pause(rule: FaultRule, receive: Receive) -> None:
    """Wait as a rule of `PAUSES` says, while the client waits too."""
    if rule.kind == "latency":
        await wait_unless_gone(asyncio.sleep(rule.params["ms"] / 1000), receive)
        return
    rule.waiting += 1
    try:
        await wait_unless_gone(rule.released.wait(), receive, timeout_s=rule.params["timeout_s"])
    finally:
        rule.waiting -= 1


async def _drip(content: bytes, bytes_per_s: float, send: Send) -> None:
    step_s = max(_STEP_S, 1 / bytes_per_s)
    size = max(1, round(bytes_per_s * step_s))
    for start in range(0, len(content), size):
        await send({"type": "http.response.body", "body": content[start : start + size], "more_body": True})
        await asyncio.sleep(step_s)
