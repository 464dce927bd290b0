"""The client against the simulated API: a whole day as it stands, and each of its faults."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch import RacingApi
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import ApiIdentity
from raceday_dagster.simulator.running import RunningSimulator, running_simulator

DAY = date(2025, 7, 17)
NOW = datetime(2025, 7, 17, 3, 0, tzinfo=UTC)
IDENTITY = ApiIdentity(from_email="someone@example.org", partner_name="Quiet Partner", partner_id="Private")
RETRIED = {
    "status": {"code": 503},
    "status 429": {"code": 429, "retry_after": "0"},
    "truncated": {},
    "reset": {},
    "drip_body": {},
    "drip_headers": {},
    "latency": {"ms": 5000},
    "html": {},
}
REFUSED = {
    "status": {"code": 400},
    "redirect": {},
    "garbage": {},
    "missing_race": {},
    "duplicate_keys": {},
    "huge": {},
    "gzip_bomb": {},
}


WARNED = {
    "nan": "dropped=data.runners.0.odds.fixed_win",
    "wrong_type": "dropped=data.runners.0.odds.fixed_win",
    "nul": "dropped=data.runners.0.name",
    "data_error": "api_error: the event could not be loaded",
}


@pytest.fixture(scope="module")
def feed() -> Iterator[RunningSimulator]:
    with running_simulator(racing_day=DAY, now=NOW, speed=0) as simulator:
        yield simulator


@pytest.fixture
def api(feed: RunningSimulator) -> Iterator[RacingApi]:
    with RacingApi(feed.api_url, IDENTITY) as client:
        yield client


def build_hasty_api(feed: RunningSimulator, retries: int) -> RacingApi:
    return RacingApi(feed.api_url, IDENTITY, timeout_s=0.5, retry_delays_s=(0.01,) * retries)


@pytest.fixture(autouse=True)
def _no_faults_left(feed: RunningSimulator) -> Iterator[None]:
    yield
    feed.clear_faults()


@pytest.fixture(scope="module")
def day(feed: RunningSimulator) -> RacingDay:
    with RacingApi(feed.api_url, IDENTITY) as client:
        return client.fetch_racing_day(DAY, deadline_s=20)


def test_every_race_of_the_day_is_read_at_every_stage_of_its_life(day: RacingDay, api: RacingApi) -> None:
    assert day.rejected == ()
    assert len(day.meetings) >= 8
    statuses = set()
    for race in day.races:
        event = api.fetch_race_event(race.race_id, deadline_s=20)
        assert event is not None
        assert (event.race_number, event.start_time) == (race.race_number, race.start_time)
        assert event.meeting_id == race.meeting_id
        assert event.tracker is not None
        statuses.add(event.status)
    assert statuses >= {"open", "final"}


def test_an_unknown_race_is_none(api: RacingApi) -> None:
    assert api.fetch_race_event("no-such-race", deadline_s=5) is None


@pytest.mark.parametrize(("fault", "params"), RETRIED.items(), ids=RETRIED)
def test_a_passing_fault_of_the_feed_is_survived(
    feed: RunningSimulator, day: RacingDay, fault: str, params: dict[str, object]
) -> None:
    race_id = day.races[0].race_id
    rule = feed.add_fault(race_id, fault.split()[0], times=1, **params)
    with build_hasty_api(feed, retries=3) as api:
        event = api.fetch_race_event(race_id, deadline_s=10)
    assert event is not None
    assert event.race_id == race_id
    assert feed.fired(rule) == 1


@pytest.mark.parametrize(("fault", "params"), REFUSED.items(), ids=REFUSED)
def test_a_lasting_fault_of_the_feed_is_an_error_at_once(
    feed: RunningSimulator, day: RacingDay, api: RacingApi, fault: str, params: dict[str, object]
) -> None:
    race_id = day.races[0].race_id
    rule = feed.add_fault(race_id, fault, **params)
    with pytest.raises(FetchError) as caught:
        api.fetch_race_event(race_id, deadline_s=10)
    assert not caught.value.retryable
    assert caught.value.race_id == race_id
    assert feed.fired(rule) == 1


@pytest.mark.parametrize(("fault", "warning"), WARNED.items(), ids=WARNED)
def test_a_race_with_an_unimportant_fault_comes_with_a_warning(
    feed: RunningSimulator, day: RacingDay, api: RacingApi, fault: str, warning: str
) -> None:
    race_id = day.races[0].race_id
    rule = feed.add_fault(race_id, fault)
    event = api.fetch_race_event(race_id, deadline_s=10)
    assert event is not None
    assert event.warnings == (warning,)
    assert feed.fired(rule) == 1


def test_hostile_names_arrive_as_they_are(feed: RunningSimulator, day: RacingDay, api: RacingApi) -> None:
    race_id = day.races[0].race_id
    rule = feed.add_fault(race_id, "hostile")
    event = api.fetch_race_event(race_id, deadline_s=10)
    assert event is not None
    assert event.runners[0].name == "Robert'); DROP TABLE entrants; --"
    assert feed.fired(rule) == 1


def test_one_bad_field_of_the_list_costs_only_itself(feed: RunningSimulator, day: RacingDay, api: RacingApi) -> None:
    rule = feed.add_fault("/racing/meetings", "wrong_type")
    spoilt = api.fetch_racing_day(DAY, deadline_s=20)
    assert feed.fired(rule) == 1
    assert (len(spoilt.meetings), len(spoilt.races)) == (len(day.meetings), len(day.races))
    assert [field.partition(": ")[2] for field in spoilt.dropped] == ["races.0.distance"]
