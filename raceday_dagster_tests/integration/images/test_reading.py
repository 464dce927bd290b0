"""Downloads of sources: cut in time, capped, and never led astray."""

from __future__ import annotations

import ipaddress
import threading
import time

import pytest

from raceday_dagster.errors import ImageError
from raceday_dagster.images import ImageSource, find_sources
from raceday_dagster.images.reading import SourceReader
from raceday_dagster_tests.integration.fetch.raw_server import ENDLESS_S, RawServer, Talk, frame, say, serving
from raceday_dagster_tests.waiting import PATIENCE_S, wait_for


def point_at(server: RawServer) -> ImageSource:
    (source,) = find_sources([f"http://127.0.0.1:{server.port}/a%20cat.png?size=1"])
    return source


def read(talk: Talk, *, timeout_s: float = PATIENCE_S, reader: SourceReader | None = None) -> bytes:
    with serving(talk) as server:
        return (reader or SourceReader()).read(point_at(server), timeout_s)


def fail(talk: Talk, *, timeout_s: float = PATIENCE_S, reader: SourceReader | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(talk, timeout_s=timeout_s, reader=reader)
    assert caught.value.stage == "read"
    assert "\n" not in caught.value.message
    return caught.value


def test_an_image_is_read_whole_as_it_was_asked_for() -> None:
    with serving(say(frame(b"image"))) as server:
        assert SourceReader().read(point_at(server), PATIENCE_S) == b"image"
    assert server.requests[0].startswith(b"GET /a%20cat.png?size=1 HTTP/1.1\r\n")


def test_a_chunked_answer_is_read() -> None:
    talk = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nima\r\n2\r\nge\r\n0\r\n\r\n")
    assert read(talk) == b"image"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [("500 Oops", True), ("429 Slow", True), ("403 No", False), ("401 Who", False), ("302 No location", False)],
)
def test_an_answer_that_is_no_image_is_refused_with_its_verdict(status: str, retryable: bool) -> None:
    error = fail(say(frame(b"", "Retry-After: 7", status=status)))
    assert error.message == f"127.0.0.1 answered {status[:3]}"
    assert (error.retryable, error.retry_after_s) == (retryable, 7)


def test_a_url_with_nothing_behind_it_leads_to_the_next() -> None:
    with serving(say(frame(b"", status="404 Gone")), say(frame(b"image"))) as server:
        base = f"127.0.0.1:{server.port}"
        source = ImageSource(name="silk", urls=(f"http://{base}/128", f"http://{base}/64"), private_host=base)
        assert SourceReader().read(source, PATIENCE_S) == b"image"
    assert fail(say(frame(b"", status="404 Gone"))).message == "not there (404)"


def test_an_answer_that_ends_early_is_retryable() -> None:
    assert fail(say(frame(b"ima", length=5))).retryable


@pytest.mark.parametrize("answer", [frame(b"", length=60_000_000), b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2_000)])
def test_an_image_beyond_the_limit_is_refused_with_or_without_its_length(answer: bytes) -> None:
    assert fail(say(answer), reader=SourceReader(max_bytes=1_000)).message == "larger than 0.001 MB"


@pytest.mark.parametrize(
    ("start", "drop"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\nX: ", b"."), (b"HTTP/1.1 200 OK\r\n\r\n", b".")],
    ids=["silence", "headers", "body"],
)
def test_a_server_that_never_ends_is_cut(start: bytes, drop: bytes) -> None:
    with serving(lambda connection: server.drip(connection, start, drop)) as server:
        began_s = time.monotonic()
        with pytest.raises(ImageError, match=r"^127\.0\.0\.1 did not answer in time") as caught:
            SourceReader().read(point_at(server), 0.5)
        assert time.monotonic() - began_s < ENDLESS_S / 2
    assert caught.value.retryable


def test_closing_the_reader_cuts_a_download_under_way_and_all_that_come_after() -> None:
    reader = SourceReader()
    errors: list[str] = []

    def try_to_read() -> None:
        with pytest.raises(ImageError) as caught:
            reader.read(point_at(server), PATIENCE_S)
        errors.append(caught.value.message)

    with serving(lambda connection: server.drip(connection, b"HTTP/1.1 200 OK\r\n\r\n", b".")) as server:
        thread = threading.Thread(target=try_to_read)
        thread.start()
        wait_for(lambda: bool(server.requests))
        reader.close()
        thread.join(PATIENCE_S)
        try_to_read()
    assert errors == ["interrupted", "interrupted"]


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("http://127.0.0.1:5432/", "127.0.0.1 is a loopback or private address: refused"),
        ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1 is a loopback or private address: refused"),
        ("http://2130706433/", "2130706433 is a loopback or private address: refused"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is a loopback or private address: refused"),
        ("//localhost:5432/", "localhost is a loopback or private address: refused"),
        ("file:///etc/passwd", "redirected to file: only http and https are read"),
        ("http://h.example:port/", "redirected to what is not a URL"),
    ],
)
def test_a_redirect_to_a_private_address_or_another_scheme_is_refused(location: str, complaint: str) -> None:
    error = fail(say(frame(b"", f"Location: {location}", status="302 Found")))
    assert error.message == complaint
    assert not error.retryable


def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever() -> None:
    there = say(frame(b"", "Location: /there", status="301 Moved"))
    with serving(there, say(frame(b"image"))) as server:
        assert SourceReader().read(point_at(server), PATIENCE_S) == b"image"
    assert fail(there).message == "more than 5 redirects"


def test_a_name_that_resolves_to_a_private_address_later_is_reached_at_the_address_that_was_looked_at() -> None:
    looked_up: list[str] = []

    def resolve(host: str, _port: int) -> list[ipaddress.IPv4Address]:
        looked_up.append(host)
        return [ipaddress.ip_address("127.0.0.1")]

    with serving(say(frame(b"image"))) as server:
        host = f"rebinding.example:{server.port}"
        source = ImageSource(name="a", urls=(f"http://{host}/a.png",), private_host=host)
        assert SourceReader(resolve=resolve).read(source, PATIENCE_S) == b"image"
    assert looked_up == ["rebinding.example"]
    assert f"Host: {host}\r\n".encode() in server.requests[0]


def test_a_resolver_that_never_answers_is_not_waited_for() -> None:
    asked = threading.Event()

    def resolve(_host: str, _port: int) -> list[ipaddress.IPv4Address]:
        asked.wait(PATIENCE_S)
        return []

    source = ImageSource(name="a", urls=("http://slow.example/a.png",))
    with pytest.raises(ImageError, match=r"^slow\.example could not be looked up in time"):
        SourceReader(resolve=resolve).read(source, 0.2)
    asked.set()
