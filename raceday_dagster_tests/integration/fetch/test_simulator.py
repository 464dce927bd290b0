"""The client against the simulated API: a whole day as it stands. What it makes of faults is shown by servers of raw
sockets (``test_http``) and by fakes; what each fault of the simulator does is shown in ``simulator/test_http``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest

from raceday_dagster.fetch import RacingApi
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import ApiIdentity
from raceday_dagster.simulator.running import RunningSimulator, running_simulator

DAY = date(2025, 7, 17)
NOW = datetime(2025, 7, 17, 3, 0, tzinfo=UTC)
IDENTITY = ApiIdentity(from_email="someone@example.org", partner_name="Quiet Partner", partner_id="Private")


@pytest.fixture(scope="module")
def feed() -> Iterator[RunningSimulator]:
    with running_simulator(racing_day=DAY, now=NOW, speed=0) as simulator:
        yield simulator


@pytest.fixture
def api(feed: RunningSimulator) -> Iterator[RacingApi]:
    with RacingApi(feed.api_url, IDENTITY) as client:
        yield client


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
