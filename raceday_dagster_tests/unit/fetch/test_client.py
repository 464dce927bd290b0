"""What the client asks for, how it introduces itself, and how it reads the pages of a day."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch import RacingApi, cutoff
from raceday_dagster.fetch.client import PAGE_SIZE
from raceday_dagster.fetch.exchange import build_session
from raceday_dagster_tests.payloads import event_payload, list_meeting, make_id, meetings_payload
from raceday_dagster_tests.payloads.event import Payload
from raceday_dagster_tests.unit.fetch.fakes import BASE_URL, IDENTITY, Answer, Feed

DAY = date(2025, 7, 17)
HOSTILE_IDS = ["../../racing/meetings", "a/b", "a?with=1", "a#b", "a%2Fb", "a;b", "a\\b", "Ā&=+ ", "' OR 1=1 --", "..a"]


def page_of(first: int, size: int, limit: int | None = PAGE_SIZE) -> Answer:
    payload = meetings_payload(list_meeting(f"Meeting {number}") for number in range(first, first + size))
    return Answer.of({**payload, "params": None if limit is None else {"limit": limit}})


def test_an_event_is_asked_for_with_its_money_tracker_and_our_identity() -> None:
    feed = Feed.of(Answer.of(event_payload()))
    feed.api.fetch_race_event(make_id("open race"), deadline_s=12)
    (request,) = feed.transport.asked
    assert request.method == "GET"
    assert request.url == f"{BASE_URL}/racing/events/{make_id('open race')}?with_money_tracker=true"
    assert request.headers["From"] == "someone@example.org"
    assert request.headers["X-Partner"] == "Quiet Partner"
    assert request.headers["X-Partner-ID"] == "Private Developer"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Accept-Encoding"] == "gzip"
    assert request.headers["User-Agent"].startswith("raceday-dagster/")


def test_the_instant_of_arrival_is_our_clock() -> None:
    event = Feed.of(Answer.of(event_payload()), takes_s=2.0).api.fetch_race_event(make_id("open race"), deadline_s=12)
    assert event is not None
    assert event.received_at == datetime(2025, 7, 17, 0, 0, 2, tzinfo=UTC)


FAR_AHEAD = "2025-07-17T00:09:50Z"
"""Ahead of the fakes' clock."""


@pytest.mark.parametrize(
    ("base_url", "generated_time", "seconds"),
    [
        (BASE_URL, FAR_AHEAD, 0),
        (BASE_URL, "2025-07-17T00:00:06Z", 0),
        (BASE_URL, "2025-07-17T00:00:05Z", 5),
        (BASE_URL, "2025-07-16T23:10:00Z", -3_000),
        ("http://127.0.0.1:8000/v1", "2025-07-17T10:00:00Z", 36_000),
    ],
)
def test_an_answer_is_dated_five_seconds_after_it_arrived_at_most(
    base_url: str, generated_time: str, seconds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    payload, page = event_payload(), meetings_payload([list_meeting()])
    payload["header"]["generated_time"] = page["header"]["generated_time"] = generated_time
    feed = Feed.of(Answer.of(payload), Answer.of(page), base_url=base_url)
    event = feed.api.fetch_race_event(make_id("open race"), deadline_s=12)
    day = feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert event is not None
    received_at = datetime(2025, 7, 17, tzinfo=UTC)
    assert event.received_at == received_at
    assert event.generated_at == day.generated_at == received_at + timedelta(seconds=seconds)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    said = [(line["event"], line["ahead_s"]) for line in lines]
    assert said == ([("http_clock_ahead", {FAR_AHEAD: 590}.get(generated_time, 6))] * 2 if seconds == 0 else [])


@pytest.mark.parametrize("race_id", HOSTILE_IDS)
def test_a_hostile_race_id_stays_one_segment_of_the_path(race_id: str) -> None:
    feed = Feed.of(Answer(404))
    assert feed.api.fetch_race_event(race_id, deadline_s=12) is None
    (request,) = feed.transport.asked
    parts = urlsplit(str(request.url))
    before, _, segment = parts.path.rpartition("/")
    assert before == "/affiliates/v1/racing/events"
    assert requests.utils.unquote(segment) == race_id
    assert parts.query == "with_money_tracker=true"
    assert not parts.fragment


@pytest.mark.parametrize("race_id", ["", "x" * 101, ".", "..", "a\0b", "a\nb", "\ud800"])
def test_what_cannot_be_a_race_id_is_refused_before_any_request(race_id: str) -> None:
    feed = Feed.of()
    with pytest.raises(FetchError, match="a race id must be") as caught:
        feed.api.fetch_race_event(race_id, deadline_s=12)
    assert not caught.value.retryable
    assert feed.transport.asked == []


def test_a_day_is_asked_for_by_its_date_page_by_page() -> None:
    feed = Feed.of(page_of(0, PAGE_SIZE), page_of(PAGE_SIZE, PAGE_SIZE), page_of(2 * PAGE_SIZE, 3))
    day = feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert len(day.meetings) == 2 * PAGE_SIZE + 3
    assert len(day.races) == 2 * len(day.meetings)
    assert day.racing_day == DAY
    asked = [parse_qs(urlsplit(str(request.url)).query) for request in feed.transport.asked]
    assert [query["offset"] for query in asked] == [["0"], ["200"], ["400"]]
    for query in asked:
        assert query["date_from"] == query["date_to"] == ["2025-07-17"]
        assert query["limit"] == ["200"]


PAGES: dict[str, tuple[list[Answer], list[str], int]] = {
    "exactly one page": ([page_of(0, PAGE_SIZE), page_of(0, 0)], ["0", "200"], PAGE_SIZE),
    "capped": ([page_of(0, 100, 100), page_of(100, 100, 100), page_of(200, 0, 100)], ["0", "100", "200"], 200),
    "capped in silence": ([page_of(0, 9, None), page_of(9, 9, None), page_of(18, 0, None)], ["0", "9", "18"], 18),
    "shorter than its cap": ([page_of(0, 99, 100)], ["0"], 99),
    "shorter than asked for": ([page_of(0, 99)], ["0"], 99),
    "nothing new and no limit": ([page_of(0, 3, None)] * 2, ["0", "3"], 3),
    "no meetings": ([page_of(0, 0)], ["0"], 0),
    "one slid onto the next page": ([page_of(0, PAGE_SIZE), page_of(PAGE_SIZE - 1, 2)], ["0", "200"], PAGE_SIZE + 1),
}


@pytest.mark.parametrize(("pages", "offsets", "meetings"), PAGES.values(), ids=PAGES)
def test_a_day_is_read_to_its_last_page(pages: list[Answer], offsets: list[str], meetings: int) -> None:
    feed = Feed.of(*pages)
    day = feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert (len(day.meetings), len(day.races), day.rejected) == (meetings, 2 * meetings, ())
    assert [parse_qs(urlsplit(str(request.url)).query)["offset"] for request in feed.transport.asked] == [
        [offset] for offset in offsets
    ]


def test_a_list_that_repeats_itself_for_ever_is_an_error() -> None:
    feed = Feed.of(*[page_of(0, PAGE_SIZE)] * 3)
    with pytest.raises(FetchError, match="nothing new") as caught:
        feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert not caught.value.retryable
    assert len(feed.transport.asked) == 2


def test_a_list_that_repeats_an_unreadable_page_of_one_is_an_error() -> None:
    page = Answer.of({**meetings_payload([list_meeting(country="")]), "params": {"limit": 1}})
    with pytest.raises(FetchError, match="nothing new"):
        Feed.of(page, page).api.fetch_racing_day(DAY, deadline_s=12)


def test_a_list_of_ever_new_meetings_is_given_up_after_twenty_pages() -> None:
    feed = Feed.of(*[page_of(number, 1, 1) for number in range(30)])
    with pytest.raises(FetchError, match="more than 20 pages"):
        feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert len(feed.transport.asked) == 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"country": ""}, "country: string should match pattern"),
        ({"date": "2025-07-16"}, "is of 2025-07-16"),
        ({"races": [{}]}, "race number 1 of the list: start_time: field required"),
    ],
)
def test_a_list_of_which_nothing_can_be_used_is_no_day_without_racing(changes: Payload, reason: str) -> None:
    page = Answer.of(meetings_payload([{**list_meeting(name), **changes} for name in ("One", "Two")]))
    with pytest.raises(
        FetchError, match=f"no race of the meetings list can be used; meeting [^:]*: {reason}"
    ) as caught:
        Feed.of(page).api.fetch_racing_day(DAY, deadline_s=12)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("fault", "retryable"), [(Answer(404), False), (Answer(400), False), (Answer(200, b"{}"), False)]
)
def test_a_failing_page_costs_the_whole_day(fault: Answer, retryable: bool) -> None:
    feed = Feed.of(page_of(0, PAGE_SIZE), fault)
    with pytest.raises(FetchError) as caught:
        feed.api.fetch_racing_day(DAY, deadline_s=12)
    assert caught.value.retryable is retryable


def test_all_pages_share_one_deadline() -> None:
    feed = Feed.of(page_of(0, PAGE_SIZE), page_of(PAGE_SIZE, PAGE_SIZE), page_of(0, 0), takes_s=4.0)
    with pytest.raises(FetchError, match="no time left") as caught:
        feed.api.fetch_racing_day(DAY, deadline_s=8)
    assert caught.value.retryable
    assert feed.transport.timeouts == [5.0, 4.0]


@pytest.mark.parametrize(
    "is_refused",
    [lambda thread: isinstance(thread, threading.Timer), lambda thread: thread.name == "raceday-connect"],
    ids=["watching", "connecting"],
)
def test_a_machine_without_a_thread_left_is_a_retryable_error(
    is_refused: Callable[[threading.Thread], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []
    start = threading.Thread.start

    def start_unless_refused(thread: threading.Thread) -> None:
        if is_refused(thread):
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless_refused)
    with (
        RacingApi("http://127.0.0.1:9/v1", IDENTITY, retry_delays_s=(0,)) as api,
        pytest.raises(FetchError, match="no thread left") as caught,
    ):
        api.fetch_race_event(make_id("open race"), deadline_s=12)
    assert caught.value.retryable
    assert len(refused) == 2
    assert cutoff._current.get() is None


def test_a_proxy_of_the_environment_is_used_but_never_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    for url, proxied in {
        "http://feed.invalid/v1": True,
        "http://127.0.0.1:8000/v1": False,
        "http://127.9.9.9/v1": False,
        "http://[::1]:8000/v1": False,
        "http://localhost:8000/v1": False,
    }.items():
        with build_session(url) as session:
            settings = session.merge_environment_settings(url, {}, None, None, None)
            assert ("http" in settings["proxies"]) is proxied, url


def test_credentials_of_a_netrc_file_are_never_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine feed.invalid login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setitem(os.environ, "NETRC", str(netrc))
    url = "http://feed.invalid/v1"
    assert requests.utils.get_netrc_auth(url) is not None
    with build_session(url) as session:
        request = session.prepare_request(requests.Request("GET", url))
    assert "Authorization" not in request.headers
