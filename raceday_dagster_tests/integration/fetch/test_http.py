"""The client against servers that misbehave below HTTP: raw sockets on 127.0.0.1, one written for each fault."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch import RacingApi
from raceday_dagster.fetch.cutoff import CONNECTING
from raceday_dagster.fetch.exchange import BODY_MAX_BYTES
from raceday_dagster.settings import ApiIdentity
from raceday_dagster_tests.integration.fetch.raw_server import (
    ENDLESS_S,
    RawServer,
    Talk,
    frame,
    hang_up_at_once,
    say,
    serving,
)
from raceday_dagster_tests.payloads import encode, event_payload, make_id
from raceday_dagster_tests.waiting import wait_for

RACE_ID = make_id("open race")
IDENTITY = ApiIdentity(from_email="someone@example.org", partner_name="Quiet Partner", partner_id="Private")
BODY = encode(event_payload())


def connect(server: RawServer, *, timeout_s: float = 2.0, retries: int = 3, scheme: str = "http") -> RacingApi:
    url = f"{scheme}://127.0.0.1:{server.port}/affiliates/v1"
    return RacingApi(url, IDENTITY, timeout_s=timeout_s, retry_delays_s=(0.01,) * retries)


def fail(server: RawServer, *, deadline_s: float = 5.0, timeout_s: float = 2.0, retries: int = 3) -> FetchError:
    """The error of a fetch that must fail, well before the server would have ended."""
    began = time.monotonic()
    with connect(server, timeout_s=timeout_s, retries=retries) as api, pytest.raises(FetchError) as caught:
        api.fetch_race_event(RACE_ID, deadline_s=deadline_s)
    assert time.monotonic() - began < ENDLESS_S / 2
    assert server.connections
    return caught.value


def test_a_plain_answer_arrives_over_one_kept_connection() -> None:
    packed = frame(gzip.compress(BODY), "Content-Encoding: gzip", "Set-Cookie: session=1; Path=/")
    with serving(say(packed), keep_alive=True) as server, connect(server) as api:
        for _ in range(3):
            event = api.fetch_race_event(RACE_ID, deadline_s=5)
            assert event is not None
            assert event.race_id == RACE_ID
    assert server.connections == 1
    assert len(server.requests) == 3
    assert all(b"From: someone@example.org\r\n" in request for request in server.requests)
    assert not any(b"Cookie:" in request for request in server.requests)


def test_five_threads_share_one_client() -> None:
    barrier = threading.Barrier(5, timeout=5)

    def answer_together(connection: socket.socket) -> None:
        barrier.wait()
        connection.sendall(frame(BODY))

    with serving(answer_together) as server, connect(server, timeout_s=5) as api, ThreadPoolExecutor(5) as threads:
        events = list(threads.map(lambda _: api.fetch_race_event(RACE_ID, deadline_s=10), range(5)))
    assert all(event is not None and event.race_id == RACE_ID for event in events)
    assert server.connections == 5


@contextmanager
def never_accepting(host: str) -> Iterator[int]:
    """A port of another loopback address where every further attempt to connect waits for ever."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), backlog=0))
        port: int = listener.getsockname()[1]
        while True:  # until its queue is full
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect((host, port))
            except TimeoutError:
                break
        yield port


def test_a_dead_first_address_of_a_name_leaves_time_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        never_accepting("127.0.0.2") as dead_port,
        serving(say(frame(BODY))) as server,
        RacingApi("http://feed.test/affiliates/v1", IDENTITY, timeout_s=2.0, retry_delays_s=()) as api,
    ):
        found = {"127.0.0.2": dead_port, "127.0.0.1": server.port}
        resolve = socket.getaddrinfo

        def resolve_both(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
            if host == "feed.test":
                return [address for ip in found for address in resolve(ip, port, *args, **options)]
            return resolve(host, found[host], *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve_both)
        began = time.monotonic()
        event = api.fetch_race_event(RACE_ID, deadline_s=5)
        assert event is not None
        assert time.monotonic() - began > 0.9, "the first address was not tried: the fault did not fire"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b""),
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (frame(b"", length=10_000_000), b" "),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\n", b"x"),
        (frame(b"", "Location: /elsewhere", status="302 Found", length=10_000_000), b" "),
    ],
    ids=["silence", "status line", "header", "sized body", "unsized body", "chunks", "error page", "redirect"],
)
def test_a_slow_drip_is_cut_off(start: bytes, drop: bytes) -> None:
    with serving(lambda connection: server.drip(connection, start, drop)) as server:
        error = fail(server, timeout_s=0.2, retries=1, deadline_s=1)
    assert len(server.requests) in (1, 2)
    redirected = b"302" in start
    assert error.retryable is not redirected
    assert ("redirects" if redirected else "did not answer" if b"503" not in start else "503") in error.message


def test_the_deadline_cuts_a_try_that_its_own_time_out_would_allow() -> None:
    with serving(lambda connection: server.drip(connection, b"", b"H")) as server:
        error = fail(server, timeout_s=ENDLESS_S, deadline_s=0.3)
    assert error.retryable
    assert len(server.requests) == 1


def test_a_cut_answer_on_a_kept_connection_does_not_spoil_the_next() -> None:
    with (
        serving(
            say(frame(BODY)),
            lambda connection: server.drip(connection, frame(b"", length=10_000_000), b" "),
            say(frame(BODY)),
            keep_alive=True,
        ) as server,
        connect(server, timeout_s=0.5) as api,
    ):
        assert api.fetch_race_event(RACE_ID, deadline_s=5) is not None
        assert api.fetch_race_event(RACE_ID, deadline_s=5) is not None
    assert len(server.requests) == 3
    assert server.connections == 2


@pytest.mark.parametrize(
    "broken",
    [
        say(frame(BODY[:100], length=len(BODY))),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + BODY[:50]),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        say(b""),
        say(b"SSH-2.0-surprise\r\n\r\n"),
        hang_up_at_once,
    ],
    ids=["short body", "short chunk", "bad chunk", "nothing", "not HTTP", "reset"],
)
def test_a_broken_exchange_is_tried_again(broken: Talk) -> None:
    with serving(broken, broken, say(frame(BODY))) as server, connect(server) as api:
        assert api.fetch_race_event(RACE_ID, deadline_s=5) is not None
    assert len(server.requests) == 3


@pytest.mark.parametrize("layers", [1, 2])
def test_a_compressed_bomb_stops_at_the_cap(layers: int) -> None:
    bomb = b"0" * (BODY_MAX_BYTES * 10)
    for _ in range(layers):
        bomb = gzip.compress(bomb, compresslevel=5)
    with serving(say(frame(bomb, f"Content-Encoding: {', '.join(['gzip'] * layers)}"))) as server:
        error = fail(server)
    assert error.message == "the answer is larger than 5 MB"
    assert not error.retryable
    assert len(server.requests) == 1


def test_an_endless_body_stops_at_the_cap() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not server.stopping.is_set():
            connection.sendall(b" " * 65536)

    with serving(flood) as server:
        error = fail(server)
    assert error.message == "the answer is larger than 5 MB"
    assert len(server.requests) == 1


def test_a_redirect_is_refused_and_its_target_left_alone() -> None:
    with serving(say(frame(BODY))) as target:
        away = frame(b"", f"Location: http://127.0.0.1:{target.port}/", status="307 Temporary Redirect")
        with serving(say(away)) as server:
            error = fail(server)
    assert "redirects (status 307)" in error.message
    assert not error.retryable
    assert len(server.requests) == 1
    assert target.connections == 0


def test_the_connection_after_an_error_page_still_works() -> None:
    with (
        serving(say(frame(b'{"error": "gone"}', status="404 Not Found")), say(frame(BODY)), keep_alive=True) as server,
        connect(server) as api,
    ):
        assert api.fetch_race_event("unknown", deadline_s=5) is None
        assert api.fetch_race_event(RACE_ID, deadline_s=5) is not None
    assert server.requests[0].startswith(b"GET /affiliates/v1/racing/events/unknown?with_money_tracker=true HTTP/1.1")


def test_a_resolver_that_never_answers_does_not_hold_the_deadline_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def resolve_late(*_args: object, **_kwargs: object) -> None:
        asked.set()
        answer.wait(ENDLESS_S)
        raise socket.gaierror(socket.EAI_AGAIN, "late")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
    began = time.monotonic()
    with (
        RacingApi("http://localhost/affiliates/v1", IDENTITY, retry_delays_s=()) as api,
        pytest.raises(FetchError, match="did not answer in full within") as caught,
    ):
        api.fetch_race_event(RACE_ID, deadline_s=0.2)
    assert time.monotonic() - began < ENDLESS_S / 2
    assert caught.value.retryable
    assert asked.is_set()
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "raceday-connect":
            thread.join()


def test_a_name_that_does_not_resolve_is_a_retryable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve_nothing(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    with (
        RacingApi("http://localhost/affiliates/v1", IDENTITY, retry_delays_s=()) as api,
        pytest.raises(FetchError, match="host name was not resolved") as caught,
    ):
        api.fetch_race_event(RACE_ID, deadline_s=5)
    assert caught.value.retryable


def test_a_server_that_does_not_speak_tls_is_refused_at_once() -> None:
    with serving(say(b""), greeting=frame(BODY)) as server:
        with connect(server, scheme="https") as api, pytest.raises(FetchError, match="TLS") as caught:
            api.fetch_race_event(RACE_ID, deadline_s=5)
        assert not caught.value.retryable
        assert server.connections == 1


def test_a_tls_handshake_that_never_ends_is_cut_off() -> None:
    with serving(say(b"")) as server:
        with (
            connect(server, scheme="https", timeout_s=0.2, retries=1) as api,
            pytest.raises(FetchError, match="did not answer in full") as caught,
        ):
            api.fetch_race_event(RACE_ID, deadline_s=5)
        assert caught.value.retryable
        assert server.connections == 2


def is_connecting() -> bool:
    return any(thread.name == CONNECTING for thread in threading.enumerate())


def test_a_connection_opened_ahead_is_the_one_the_next_request_uses() -> None:
    with serving(say(frame(BODY)), keep_alive=True) as server, connect(server) as api:
        api.connect_ahead(3)
        wait_for(lambda: server.connections == 3 and not is_connecting(), 5)
        assert api.fetch_race_event(RACE_ID, deadline_s=5) is not None
        assert (server.connections, len(server.requests)) == (3, 1)


def test_a_connection_that_cannot_be_opened_ahead_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/affiliates/v1"
    with RacingApi(url, IDENTITY, retry_delays_s=()) as api:
        api.connect_ahead(2)
        wait_for(lambda: not is_connecting(), 5)
        with pytest.raises(FetchError, match="refused the connection"):
            api.fetch_race_event(RACE_ID, deadline_s=2)
