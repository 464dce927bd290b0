"""The guard before the web UI: what a browser page may not do, and what everybody else still may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.types import Message, Receive, Scope, Send

from raceday_dagster.web.guard import LOOPBACK_HOSTS, HostRule, WebGuard

HERE = "127.0.0.1:3000"
ORIGIN = f"http://{HERE}"
JSON = {"content-type": "application/json"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
Pairs = Sequence[tuple[str, str]]


@dataclass
class Ui:
    """Stands where Dagster's UI stands; remembers what came through."""

    headers: Pairs = ()
    seen: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": encode(self.headers)})
            await send({"type": "http.response.body", "body": b"the UI"})


@dataclass(frozen=True)
class Answer:
    status: int | None
    text: str
    headers: Mapping[str, str]
    arrived: bool
    """Whether the UI saw the request."""


def encode(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


def send_request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | Pairs = (),
    *,
    host: str | None = HERE,
    query: str = "",
    hosts: HostRule | None = None,
    ui: Ui | None = None,
    kind: str = "http",
) -> Answer:
    """What the guard before ``ui`` answers; ``status`` is ``None`` for a websocket that was let through."""
    ui = ui or Ui()
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    pairs = ([] if host is None else [("host", host)]) + given
    scope: dict[str, Any] = {"type": kind, "path": path, "query_string": query.encode(), "headers": encode(pairs)}
    if kind == "http":
        scope["method"] = method
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the guard reads no body")

    asyncio.run(WebGuard(ui, hosts or HostRule())(scope, receive, send))
    start: Message = sent[0] if sent else {}
    return Answer(
        status=start.get("status"),
        text=b"".join(message.get("body", b"") for message in sent).decode(),
        headers={name.decode(): value.decode() for name, value in start.get("headers", [])},
        arrived=bool(ui.seen),
    )


def ask(**parameters: str) -> str:
    return urlencode(parameters)


def assert_refused(answer: Answer, status: int = 403) -> None:
    assert answer.status == status
    assert not answer.arrived
    assert answer.text.startswith("refused: ")
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("host", [HERE, "127.0.0.1", "localhost:8080", "LocalHost", "[::1]:3000", "[::1]"])
def test_this_machine_by_its_own_names_is_served_on_any_port(host: str) -> None:
    assert send_request(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example", "localhost."),
        *("192.168.1.5:3000", "0.0.0.0", "[::2]", "127.0.0.1@evil.example", "evil.example#127.0.0.1", ""),
        *("127.0.0.1:3000, evil.example", "127.0.0.1:", "::1", "localhost\n"),
    ],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert_refused(send_request(host=host))


def test_no_host_and_two_hosts_are_refused() -> None:
    assert_refused(send_request(host=None))
    assert_refused(send_request(headers={"host": "evil.example"}))
    assert_refused(send_request(headers={"host": HERE}))


def test_a_name_that_was_allowed_is_served_and_no_other() -> None:
    hosts = HostRule(LOOPBACK_HOSTS | {"racing.example"})
    assert send_request(host="Racing.Example:3000", hosts=hosts).status == 200
    assert_refused(send_request(host="evil.racing.example", hosts=hosts))
    assert_refused(send_request(host="192.168.1.5", hosts=hosts))


@pytest.mark.parametrize("host", ["192.168.1.5:3000", "[fe80::1]:3000", "10.0.0.1"])
def test_an_exposed_server_answers_to_addresses_but_not_to_names(host: str) -> None:
    hosts = HostRule(any_address=True)
    assert send_request(host=host, hosts=hosts).status == 200
    assert_refused(send_request(host="evil.example", hosts=hosts))


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:3001", "http://localhost:3000", HERE],
)
def test_another_origin_is_refused_on_both_protocols(kind: str, origin: str) -> None:
    assert_refused(send_request("POST", "/graphql", {**JSON, "origin": origin}, kind=kind))


def test_a_page_of_the_ui_talks_to_it_on_both_protocols() -> None:
    headers = {**JSON, "origin": ORIGIN, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert send_request("POST", "/graphql", headers).status == 200
    upgraded = send_request(path="/graphql", headers=headers, kind="websocket")
    assert upgraded.arrived
    assert upgraded.status is None


def test_a_second_origin_does_not_hide_behind_a_good_one() -> None:
    pairs = [("origin", ORIGIN), ("origin", "http://evil.example"), ("content-type", "application/json")]
    assert_refused(send_request("POST", "/graphql", pairs))


def test_a_proxy_that_speaks_https_for_us_is_the_same_origin() -> None:
    hosts = HostRule(frozenset({"racing.example"}))
    headers = {**JSON, "origin": "https://racing.example"}
    assert send_request("POST", "/graphql", headers, host="racing.example", hosts=hosts).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_another_site_is_refused_even_without_an_origin(site: str, kind: str) -> None:
    assert_refused(send_request(path="/graphql", headers={"sec-fetch-site": site}, query=ask(query="{v}"), kind=kind))
    assert_refused(send_request(path="/", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}, kind=kind))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_from_elsewhere_opens_a_page(site: str) -> None:
    assert send_request(path="/runs/0b1f", headers={**LINK, "sec-fetch-site": site}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "changed"),
    [
        ("GET", "/graphql", {}),
        ("GET", "/graphql\n", {}),
        ("POST", "/", {}),
        ("GET", "/", {"sec-fetch-dest": "iframe"}),
        ("GET", "/", {"sec-fetch-mode": "cors"}),
        ("GET", "/", {"origin": "http://evil.example"}),
    ],
)
def test_a_link_from_elsewhere_does_nothing_more(method: str, path: str, changed: dict[str, str]) -> None:
    assert_refused(send_request(method, path, {**LINK, **changed}))


def test_a_typed_address_is_served() -> None:
    headers = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert send_request(headers=headers).status == 200


@pytest.mark.parametrize(
    "document",
    [
        "mutation { launchRun }",
        "query Good { version } mutation Bad { launchRun }",
        "mutation Bad { launchRun } query Good { version }",
        "subscription { logs }",
        "fragment F on Mutation { launchRun } mutation { ...F }",
        "# query\nmutation { launchRun }",
        "{ version",
        "",
        "{a" * 5_000,
    ],
)
def test_get_executes_no_mutation_and_nothing_that_is_not_understood(document: str) -> None:
    for method, path in (("GET", "/graphql"), ("HEAD", "/graphql"), ("GET", "/graphql\n"), ("GET", "/graphql/")):
        assert_refused(send_request(method, path, query=ask(query=document, operationName="Good")))


def test_a_second_query_parameter_hides_nothing() -> None:
    harmless, harmful = ask(query="{ version }"), ask(query="mutation { launchRun }")
    assert_refused(send_request(path="/graphql", query=f"{harmless}&{harmful}"))
    assert_refused(send_request(path="/graphql", query=f"{harmful}&{harmless}"))


def test_get_still_answers_queries_and_shows_the_query_page() -> None:
    two = "query A { version } query B { ...F } fragment F on Query { version }"
    assert send_request(path="/graphql", query=ask(query="{ version }")).status == 200
    assert send_request(path="/graphql", query=ask(query=two, operationName="B")).status == 200
    assert send_request(path="/graphql").status == 200


def test_a_page_with_a_query_of_its_own_in_the_address_is_served() -> None:
    assert send_request(path="/runs", query=ask(query="mutation {")).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""),
        *("text/plain; charset=application/json", "text/plain, application/json", "application/jsonx"),
    ],
)
def test_a_body_that_a_form_can_send_is_refused(content_type: str) -> None:
    for path in ("/graphql", "/report_asset_materialization/races"):
        assert_refused(send_request("POST", path, {"content-type": content_type}), 415)


def test_a_body_without_a_type_or_with_two_is_refused() -> None:
    assert_refused(send_request("POST", "/graphql", query=ask(query="mutation { launchRun }")), 415)
    two = [("content-type", "application/json"), ("content-type", "text/plain")]
    assert_refused(send_request("POST", "/graphql", two), 415)


@pytest.mark.parametrize("proof", [{"origin": ORIGIN}, {"sec-fetch-site": "same-origin"}])
def test_a_form_of_the_ui_itself_is_served(proof: dict[str, str]) -> None:
    assert send_request("POST", "/graphql", {"content-type": "text/plain", **proof}).status == 200


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/graphql"])
def test_a_script_without_a_browser_may_post_what_it_likes(content_type: str) -> None:
    assert send_request("POST", "/graphql", {"content-type": content_type}).status == 200


def test_a_script_without_a_browser_may_open_a_websocket() -> None:
    assert send_request(path="/graphql", kind="websocket").arrived
    assert_refused(send_request(path="/graphql", kind="websocket", host="evil.example"))


def test_asking_first_does_not_help_another_origin() -> None:
    assert_refused(send_request("OPTIONS", "/graphql", {"origin": "http://evil.example"}))


def test_no_answer_can_be_framed() -> None:
    assert send_request().headers["x-frame-options"] == "DENY"
    assert send_request(host="evil.example").headers["x-frame-options"] == "DENY"
    own = Ui(headers=[("x-frame-options", "SAMEORIGIN")])
    assert send_request(ui=own).headers == {"x-frame-options": "SAMEORIGIN"}


def test_what_is_no_request_passes_untouched() -> None:
    ui = Ui()
    send_request(kind="lifespan", host=None, ui=ui)
    assert ui.seen == ["lifespan"]
