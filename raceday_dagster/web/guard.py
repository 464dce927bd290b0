"""Who may send what to Dagster's web UI: an ASGI app before another one.

The UI has no login, so a page in the operator's browser must not be able to use it. Refused are host names that are
not ours (DNS rebinding), requests that another page made (``Origin``, ``Sec-Fetch-Site``), mutations by GET, bodies
that a plain form can send, and being shown in a frame. Whoever is no browser and names the right host is let through.

Only the decision belongs here. What is served is in ``server``, on which address in ``address``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
JSON_OR_GRAPHQL = frozenset({"application/json", "application/graphql"})
"""The media types that Dagster reads, and that a page cannot send elsewhere without asking first."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True)
class HostRule:
    """The hosts that a request may name, with any port: a tunnel ends on another one than ours."""

    names: frozenset[str] = LOOPBACK_HOSTS
    """Lower case; an IPv6 address without brackets."""
    any_address: bool = False
    """Whether every IP address is good too: a page that rebinds DNS always has a name."""

    def allows(self, host: str) -> bool:
        """Whether ``host``, the value of a ``Host`` header, may be named."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]")
        return name in self.names or (self.any_address and _is_address(name))


class WebGuard:
    """Passes on to ``app`` the requests that ``find_refusal`` lets through, and forbids frames in every answer."""

    def __init__(self, app: ASGIApp, hosts: HostRule) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("X-Frame-Options", "DENY")
            await send(message)

        answer = find_refusal(scope, self._hosts) or self._app
        await answer(scope, receive, send_unframed)


def find_refusal(scope: Scope, hosts: HostRule) -> PlainTextResponse | None:
    """The refusal of an ASGI http or websocket ``scope``, which says why; ``None`` when it is let through."""
    headers = Headers(scope=scope)
    named = headers.getlist("host")
    if len(named) != 1 or not hosts.allows(named[0]):
        return _refuse(403, "this host name is not served; --allow-host NAME adds one")
    origins = {origin.lower() for origin in headers.getlist("origin")}
    ours = {f"{scheme}://{named[0].lower()}" for scheme in ("http", "https")}  # https: a proxy may speak it for us
    if not origins <= ours:
        return _refuse(403, "the request comes from a page of another origin")
    sites = set(headers.getlist("sec-fetch-site"))
    if not sites <= {"same-origin", "none"} and not _opens_page(scope, headers):
        return _refuse(403, "the request comes from a page of another site")
    if scope["type"] == "websocket":
        return None
    if scope["method"] in {"GET", "HEAD"}:
        if _is_graphql(scope) and not _only_reads(QueryParams(scope["query_string"]).getlist("query")):
            return _refuse(403, "GET answers queries only; a mutation needs POST")
        return None
    if not origins and "same-origin" not in sites and not _has_careful_type(headers):
        return _refuse(415, "send it as application/json or application/graphql")
    return None


def _refuse(status: int, reason: str) -> PlainTextResponse:
    return PlainTextResponse(f"refused: {reason}\n", status)


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Whether a link somewhere else opens a page of the UI in a tab of its own."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
        and not _is_graphql(scope)
    )


def _is_address(name: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_graphql(scope: Scope) -> bool:
    # By its beginning: Starlette's patterns also match the path with a line feed after it.
    return str(scope["path"]).startswith("/graphql")


def _only_reads(documents: Iterable[str]) -> bool:
    """Whether every operation is a query: whichever ``operationName`` picks, nothing changes."""
    try:
        parsed = [parse(document, no_location=True) for document in documents]
    except (GraphQLError, RecursionError):
        return False
    return all(
        node.operation is OperationType.QUERY
        for document in parsed
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode)
    )


def _has_careful_type(headers: Headers) -> bool:
    # Dagster looks for its types anywhere in the header; a form may send one of them as a parameter of text/plain.
    types = {value.partition(";")[0].strip().lower() for value in headers.getlist("content-type")}
    return len(types) == 1 and types <= JSON_OR_GRAPHQL
