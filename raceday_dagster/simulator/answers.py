"""Sending an answer, whole or broken on its way.

What no HTTP server would send (headers drop by drop, a body shorter than promised) is written straight to the
connection's transport, which `server` puts into the request's state. The connection is closed after that.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Send

from raceday_dagster.simulator.faults import GARBAGE, HTML, PAUSES, WIRE, FaultRule

_STEP_S = 0.05


@dataclass(frozen=True)
class Answer:
    """One answer: status, body and the headers besides content-length."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def write_head(self, **more: str) -> bytes:
        """The head as raw HTTP/1.1; the connection is closed after it."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        headers = {**self.headers, "content-length": str(len(self.body)), "connection": "close", **more}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


BuildAnswer = Callable[[Request, str, dict[str, Any]], Awaitable[Answer]]


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """JSON as the API writes it: UTF-8, no spaces. A NaN in it is written as NaN."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def pack_json(status: int, body: bytes, *, accepts_gzip: bool) -> Answer:
    """A JSON answer, compressed when the client can read that."""
    headers = {"content-type": "application/json; charset=utf-8", "vary": "Accept-Encoding"}
    if accepts_gzip:
        return Answer(status, gzip.compress(body, 1, mtime=0), headers | {"content-encoding": "gzip"})
    return Answer(status, body, headers)


async def answer_with_faults(
    request: Request, send: Send, rules: Sequence[FaultRule], latency_s: float, build: BuildAnswer
) -> None:
    """Wait, `latency_s` and as the pauses among the rules say, then send what `build` makes of the fault that is left.

    `build` is given the fault's kind and parameters, an empty kind without one; the rest of a wire fault is done here.
    """
    receive = request.receive
    if latency_s:
        await wait_unless_gone(asyncio.sleep(latency_s), receive)
    kind, params = "", dict[str, Any]()
    for rule in rules:
        if rule.kind in PAUSES:
            await pause(rule, receive)
        else:
            kind, params = rule.kind, rule.params
    answer = await build(request, kind, params)
    if kind in WIRE:
        await send_broken(kind, params.get("bytes_per_s", 0.0), answer, request.scope["state"]["transport"], receive)
    else:
        await send_answer(answer, send)


def build_broken(kind: str) -> Answer | None:
    """An answer that is no JSON, for the kinds whose answer is always the same."""
    if kind == "html":
        return Answer(200, HTML, {"content-type": "text/html; charset=utf-8"})
    if kind == "garbage":
        return Answer(200, GARBAGE, {"content-type": "application/json; charset=utf-8"})
    return None


async def send_answer(answer: Answer, send: Send) -> None:
    """Send it whole, as the server does; the connection stays open."""
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body})


async def send_broken(
    kind: str, bytes_per_s: float, answer: Answer, transport: asyncio.Transport, receive: Receive
) -> None:
    """Send it as the wire fault says, close the connection, and wait until it is gone."""
    if kind == "reset":
        _reset(transport)
    elif kind == "truncated":
        transport.write(answer.write_head() + answer.body[: len(answer.body) // 2])
        transport.close()
    elif kind == "drip_headers":
        # The filler makes the headers last long enough for any deadline.
        head = answer.write_head(**{"x-filler": "." * 2000})
        await wait_unless_gone(_drip(head, bytes_per_s, transport), receive)
        transport.write(answer.body)
        transport.close()
    else:
        transport.write(answer.write_head())
        await wait_unless_gone(_drip(answer.body, bytes_per_s, transport), receive)
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


async def _drip(content: bytes, bytes_per_s: float, transport: asyncio.Transport) -> None:
    step_s = max(_STEP_S, 1 / bytes_per_s)
    size = max(1, round(bytes_per_s * step_s))
    for start in range(0, len(content), size):
        transport.write(content[start : start + size])
        await asyncio.sleep(step_s)


def _reset(transport: asyncio.Transport) -> None:
    """Close without the goodbye of TCP: the client sees a connection reset by its peer."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
