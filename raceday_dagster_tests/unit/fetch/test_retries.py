"""Which failed tries are repeated, after what wait, and when the client gives up."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import time_machine
from urllib3.exceptions import IncompleteRead, ProtocolError

from raceday_dagster.errors import FetchError
from raceday_dagster_tests.payloads import event_payload, make_id
from raceday_dagster_tests.unit.fetch.fakes import Answer, Feed

RACE_ID = make_id("open race")
GOOD = Answer.of(event_payload())
NOW = datetime(2025, 7, 17, tzinfo=UTC)

RETRIED = {
    "HTML": Answer(200, b"<!doctype html><title>Maintenance</title>"),
    "500": Answer(500),
    "502": Answer(502),
    "503": Answer(503),
    "429": Answer(429),
    "read time-out": requests.ReadTimeout(),
    "connect time-out": requests.ConnectTimeout(),
    "connection reset": requests.ConnectionError(ProtocolError("aborted", ConnectionResetError())),
    "connection refused": requests.ConnectionError(ConnectionRefusedError()),
    "broken off": requests.exceptions.ChunkedEncodingError(ProtocolError("broken", IncompleteRead(3, 10))),
    "TLS cut short": requests.exceptions.SSLError(ssl.SSLEOFError()),
}
REFUSED = {
    "400": Answer(400),
    "401": Answer(401),
    "403": Answer(403),
    "408": Answer(408),
    "redirect": Answer(302, headers={"Location": "http://elsewhere.invalid/"}),
    "not modified": Answer(304),
    "no content": Answer(204),
    "half a JSON": Answer(200, b'{"data": {"race": {'),
    "empty": Answer(200, b""),
    "an array": Answer(200, b"[]"),
    "not gzip": Answer(200, b"plain", {"Content-Encoding": "gzip"}),
    "untrusted certificate": requests.exceptions.SSLError(ssl.SSLCertVerificationError()),
    "5 MB and a byte": Answer(200, b" " * (5 * 1024 * 1024 + 1)),
}


def fetch(feed: Feed, deadline_s: float = 12.0) -> Any:
    return feed.api.fetch_race_event(RACE_ID, deadline_s=deadline_s)


def read_log(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED)
def test_a_passing_fault_is_tried_again_until_the_answer_comes(fault: Answer | Exception) -> None:
    feed = Feed.of(fault, fault, fault, GOOD)
    event = fetch(feed)
    assert event is not None
    assert event.race_id == RACE_ID
    assert feed.clock.slept == [0.1, 0.2, 0.4]
    assert feed.transport.script == []


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED)
def test_after_three_retries_a_passing_fault_is_a_retryable_error(fault: Answer | Exception) -> None:
    feed = Feed.of(fault, fault, fault, fault, GOOD)
    with pytest.raises(FetchError) as caught:
        fetch(feed)
    assert caught.value.retryable
    assert caught.value.race_id == RACE_ID
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith("gave up after 4 tries")
    assert feed.transport.script == [GOOD]


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
def test_a_lasting_fault_is_an_error_at_once(fault: Answer | Exception) -> None:
    feed = Feed.of(fault, GOOD)
    with pytest.raises(FetchError) as caught:
        fetch(feed)
    assert not caught.value.retryable
    assert caught.value.race_id == RACE_ID
    assert "\n" not in caught.value.message
    assert feed.clock.slept == []
    assert feed.transport.script == [GOOD]


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("3", 3.0),
        (" 3 ", 3.0),
        ("0", 0.1),
        ("Thu, 17 Jul 2025 00:00:02 GMT", 2.0),
        ("Wed, 16 Jul 2025 00:00:00 GMT", 0.1),
        ("Thu, 99 Jul 99999 00:01:00 GMT", 0.1),
        ("soon", 0.1),
        ("1.5", 0.1),
        ("٣", 0.1),
        ("-5", 0.1),
        ("", 0.1),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
@time_machine.travel(NOW, tick=False)
def test_retry_after_is_waited_for_but_never_less_than_the_usual_delay(status: int, header: str, waits: float) -> None:
    feed = Feed.of(Answer(status, headers={"Retry-After": header}), GOOD)
    assert fetch(feed) is not None
    assert feed.clock.slept == [waits]


@pytest.mark.parametrize(
    ("header", "deadline_s"),
    [("11", 60), ("4", 3), ("99999999999999999999", 60), ("Fri, 18 Jul 2025 00:00:00 GMT", 60)],
)
@time_machine.travel(NOW, tick=False)
def test_a_retry_after_that_does_not_fit_ends_the_fetch_at_once(header: str, deadline_s: float) -> None:
    feed = Feed.of(Answer(429, headers={"Retry-After": header}), GOOD)
    with pytest.raises(FetchError, match=r"status 429; gave up after 1 try$") as caught:
        fetch(feed, deadline_s)
    assert caught.value.retryable
    assert feed.clock.slept == []


def test_the_tries_share_one_deadline() -> None:
    feed = Feed.of(*[requests.ReadTimeout()] * 3, GOOD, takes_s=5.0)
    with pytest.raises(FetchError) as caught:
        fetch(feed, deadline_s=12)
    assert caught.value.retryable
    assert feed.transport.timeouts == [5.0, 5.0, 1.7]
    assert feed.clock.slept == [0.1, 0.2]


def test_a_deadline_that_has_passed_asks_nobody() -> None:
    feed = Feed.of(GOOD)
    with pytest.raises(FetchError, match="no time left") as caught:
        fetch(feed, deadline_s=0)
    assert caught.value.retryable
    assert feed.transport.asked == []


def test_every_retry_and_the_giving_up_are_logged_with_the_race(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FetchError):
        fetch(Feed.of(*[Answer(503)] * 4))
    lines = read_log(capsys)
    assert [line["event"] for line in lines] == ["http_retry"] * 3 + ["http_gave_up"]
    assert [line.get("delay_ms") for line in lines] == [100, 200, 400, None]
    assert [line["attempt"] for line in lines] == [1, 2, 3, 4]
    assert {line["race_id"] for line in lines} == {RACE_ID}
    assert {line["reason"] for line in lines} == {"the API answered with status 503"}


def test_a_refusal_is_logged_with_a_clean_short_excerpt(capsys: pytest.CaptureFixture[str]) -> None:
    page = "No\r\n\x1b[31mentry\x00 for someone@example.org\u202e!" + "x" * 500
    with pytest.raises(FetchError) as caught:
        fetch(Feed.of(Answer(403, page.encode())))
    (line,) = read_log(capsys)
    assert line["event"] == "http_client_error"
    assert line["status"] == 403
    assert line["race_id"] == RACE_ID
    assert line["excerpt"].startswith("No [31mentry for … !xxx")
    assert len(line["excerpt"]) <= 200
    assert "No" not in caught.value.message


def test_an_invalid_answer_is_logged_with_its_field_path(capsys: pytest.CaptureFixture[str]) -> None:
    payload = event_payload()
    payload["data"]["race"]["race_number"] = "4.40"
    with pytest.raises(FetchError) as caught:
        fetch(Feed.of(Answer.of(payload)))
    (line,) = read_log(capsys)
    assert line["event"] == "http_validation_error"
    assert line["race_id"] == RACE_ID
    assert line["problem"] == "data.race.race_number: input should be a valid integer"
    assert line["problem"] in caught.value.message
    assert "4.40" not in json.dumps(line)


def test_no_line_holds_our_identity_or_the_body(capsys: pytest.CaptureFixture[str]) -> None:
    echo = b"someone@example.org Quiet Partner Private Developer"
    for script in ([Answer(400, echo)], [Answer(500, echo)] * 4, [Answer(200, echo)]):
        with pytest.raises(FetchError) as caught:
            fetch(Feed.of(*script))
        assert "Partner" not in caught.value.message
    printed = capsys.readouterr().err
    assert printed.count("\n") == 6
    for secret in ("someone@", "Quiet", "Private"):
        assert secret not in printed


def test_a_page_of_html_is_named_by_its_type_and_title() -> None:
    page = Answer(200, b"\n<html><head><TITLE lang='en'>Access\nDenied</TITLE>", {"Content-Type": "text/html"})
    with pytest.raises(FetchError, match=r"page instead of JSON \(text/html, titled 'Access Denied'\)") as caught:
        fetch(Feed.of(*[page] * 4))
    assert caught.value.retryable


def test_the_reason_that_the_api_gives_for_a_400_is_shown() -> None:
    refusal = Answer(400, b'{"header": {"error": "date_from must be within 14 days, Quiet Partner"}}')
    with pytest.raises(FetchError) as caught:
        fetch(Feed.of(refusal))
    assert caught.value.message == "the API answered with status 400: date_from must be within 14 days, …"


def test_an_error_of_the_api_instead_of_a_race_may_be_tried_again() -> None:
    with pytest.raises(FetchError, match="the API says: feed is down") as caught:
        fetch(Feed.of(Answer(200, b'{"data": {"error": "feed is down"}}')))
    assert caught.value.retryable
