"""The stream of polls: a page hears of each commit, whatever becomes of the connection that listens."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from raceday_dagster.market import events
from raceday_dagster.market.events import HEARTBEAT, RESYNC, PollEvents
from raceday_dagster.market.views import MarketReader
from raceday_dagster.store.race_store import PollRun, RaceStore
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.integration.store.test_ledger import make_failure
from raceday_dagster_tests.waiting import wait_for
from raceday_dagster_tests.write_snapshots import make_snapshot

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'UNLISTEN raceday%%'"
)
HEARD_S = 20.0


class DeafMarketReader(MarketReader):
    """What a pooler in transaction mode makes of a notification: nothing."""

    def notify(self, channel: str) -> None:
        assert channel.startswith("raceday_trial")


@pytest.fixture
def market(database_url: str) -> Iterator[MarketReader]:
    market = MarketReader(database_url)
    yield market
    market.close()


async def hear(stream: AsyncIterator[str], until: Callable[[str], bool]) -> str:
    """The first event that is wanted, or a failure in time."""
    async with asyncio.timeout(HEARD_S):
        while not until(event := await anext(stream)):
            pass
    return event


def read_poll(event: str) -> dict[str, Any]:
    kind, data, *_ = event.splitlines()
    assert kind == "event: poll"
    payload: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return payload


def is_poll(event: str) -> bool:
    return event.startswith("event: poll")


def is_resync(event: str) -> bool:
    return event == RESYNC


def wait_for_end(source: PollEvents) -> None:
    """Without a page nothing listens any more."""
    wait_for(lambda: source._thread is None)


def test_a_page_hears_of_the_polls_of_its_race_and_no_others(
    store: RaceStore, market: MarketReader, database_url: str
) -> None:
    source = PollEvents(database_url, market)

    async def follow() -> tuple[str, str]:
        async with aclosing(source.stream("race-2")) as one, aclosing(source.stream(None)) as every:
            for stream in (one, every):
                await hear(stream, is_resync)
            with observe(database_url) as run:
                run("NOTIFY raceday, 'not ours'; NOTIFY raceday, '{}'; NOTIFY raceday, '[1]'")
            await asyncio.to_thread(write, store, make_snapshot("race-1"), run_id="one")
            await asyncio.to_thread(write, store, make_snapshot("race-2"), run_id="two")
            return await hear(one, is_poll), await hear(every, is_poll)

    of_one, of_every = asyncio.run(follow())
    assert (read_poll(of_one)["race_id"], read_poll(of_one)["status"]) == ("race-2", "success")
    assert read_poll(of_every)["race_id"] == "race-1"
    wait_for_end(source)


def hear_poll_after(source: PollEvents, *acts: Callable[[], object]) -> dict[str, Any]:
    """The poll that a page hears when these were done, each after the page was told to read itself anew."""

    async def follow() -> dict[str, Any]:
        async with aclosing(source.stream(None)) as stream:
            for act in acts:
                await hear(stream, is_resync)
                await asyncio.to_thread(act)
            return read_poll(await hear(stream, is_poll))

    heard = asyncio.run(follow())
    wait_for_end(source)
    return heard


def test_a_cut_connection_is_replaced_and_the_page_reads_itself_anew(
    store: RaceStore, market: MarketReader, database_url: str
) -> None:
    def cut() -> None:
        with observe(database_url) as run:
            assert run(CUT) == [(True,)]

    source = PollEvents(database_url, market)
    heard = hear_poll_after(source, cut, lambda: write(store, make_snapshot(), run_id="after"))
    assert heard["race_id"] == "race-1"


def test_a_page_is_fed_though_the_thread_of_the_pages_before_died(
    store: RaceStore, market: MarketReader, database_url: str
) -> None:
    source = PollEvents(database_url, market)
    source._thread = threading.Thread(target=int)
    source._thread.start()
    source._thread.join()
    assert hear_poll_after(source, lambda: write(store, make_snapshot(), run_id="after"))["race_id"] == "race-1"


@pytest.mark.parametrize("listens_at", ["behind a pooler", "nowhere"])
def test_what_cannot_be_heard_is_read_from_the_ledger(
    store: RaceStore, database_url: str, listens_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARD_WITHIN_S", 0.05)
    monkeypatch.setattr(events, "LOOK_S", 0.05)
    market = DeafMarketReader(database_url)
    source = PollEvents(NOWHERE if listens_at == "nowhere" else database_url, market)
    heard = hear_poll_after(
        source, lambda: store.record_poll(make_failure("race-1", polled_at=datetime.now(UTC)), PollRun(run_id="now"))
    )
    assert (heard["race_id"], heard["status"]) == ("race-1", "failed")
    market.close()


def test_a_server_that_stops_ends_its_streams(market: MarketReader) -> None:
    source = PollEvents(NOWHERE, market)

    async def follow() -> list[str]:
        async with aclosing(source.stream(None)) as stream:
            await hear(stream, is_resync)
            source.end()
            async with asyncio.timeout(HEARD_S):
                return [event async for event in stream]

    assert asyncio.run(follow()) == []
    wait_for_end(source)


def test_a_quiet_stream_says_that_it_is_still_there(market: MarketReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    source = PollEvents(NOWHERE, market)

    async def follow() -> str:
        async with aclosing(source.stream(None)) as stream:
            return await hear(stream, lambda event: event == HEARTBEAT)

    assert asyncio.run(follow()) == HEARTBEAT
    wait_for_end(source)
