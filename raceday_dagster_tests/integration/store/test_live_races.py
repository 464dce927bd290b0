"""What the health check reads of the races that are on now: when a poll last succeeded, and why the newest failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from raceday_dagster.store.queries import read_live_races
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import open_store, write
from raceday_dagster_tests.integration.store.test_ledger import make_failure
from raceday_dagster_tests.write_snapshots import START, make_snapshot

AGO = timedelta(minutes=1)


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    with open_store(database_url) as store:
        yield store


def read(store: RaceStore) -> tuple[datetime | None, str | None]:
    (race,) = read_live_races(store.engine, START - AGO, countries=["NZ", "AUS"], categories=["T", "H", "G"])
    return race.polled_at, race.error


def test_a_race_never_polled_is_live_too(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1"]))
    assert read(store) == (None, None)


def test_a_poll_that_failed_does_not_count_and_its_reason_is_read_until_another_succeeds(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1"]))
    store.record_poll(make_failure("race-1", polled_at=START - 60 * AGO, message="refused"), "run-0")
    assert read(store) == (None, "refused")
    write(store, make_snapshot(), run_id="run-1")
    succeeded_at, error = read(store)
    assert succeeded_at is not None
    assert error is None
    store.record_poll(make_failure("race-1", polled_at=succeeded_at + AGO, message="503"), "run-2")
    assert read(store) == (succeeded_at, "503")
