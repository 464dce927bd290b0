"""A webhook is told in time or not at all, whatever the other side does."""

from __future__ import annotations

import socket

import pytest
from pydantic import SecretStr

from raceday_dagster.defs.webhook import TRIES, send_webhook
from raceday_dagster_tests.integration.fetch.raw_server import frame, hang_up_at_once, say, serving


@pytest.fixture(autouse=True)
def _short_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raceday_dagster.defs.webhook.TIMEOUT_S", 0.2)


def send(port: int, *signals: object) -> str | None:
    return send_webhook(SecretStr(f"http://127.0.0.1:{port}/hook?key=hunter2"), {"signals": signals})


def test_who_listens_is_told_once() -> None:
    with serving(say(frame(b"", status="204 No Content"))) as server:
        assert send(server.port, 1, "é") is None
    assert server.read_posted() == [{"signals": [1, "é"]}]


def test_a_server_that_hangs_or_drips_is_cut_off_at_each_try() -> None:
    for start, drop in ((b"", b""), (b"HTTP/1.1 200 OK\r\n", b"X: x\r\n")):
        with serving(lambda connection, start=start, drop=drop: server.drip(connection, start, drop)) as server:
            assert send(server.port) == "no answer within 0.2 s"
            assert len(server.requests) == TRIES


@pytest.mark.parametrize("status", ["500 No", "404 Gone", "302 Found"])
def test_a_refusing_answer_is_told_by_its_status(status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    with serving(say(answer.encode())) as server:
        assert send(server.port) == f"it answered {status[:3]}"
        assert len(server.requests) == TRIES


def test_one_failure_is_made_good_by_the_second_try() -> None:
    with serving(hang_up_at_once, say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        assert send(server.port) is None
        assert len(server.requests) == TRIES


def test_nobody_at_the_address_is_said_without_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert send(port) == "it could not be reached (ConnectionError)"
