"""An evening of the simulator, replayed at its cadence: late money, a scratching, and a race where nothing moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from raceday_dagster.fetch import RacingApi
from raceday_dagster.racing.cadence import choose_interval
from raceday_dagster.racing.signals import Signal, Thresholds
from raceday_dagster.settings import ApiIdentity
from raceday_dagster.simulator.running import RunningSimulator, running_simulator
from raceday_dagster.store.race_store import RaceStore, StoredPoll
from raceday_dagster.transform.race import transform_race
from raceday_dagster_tests.integration.store.store_fixture import open_store, write

DAY = date(2025, 7, 17)
EVENING = datetime(2025, 7, 17, 3, 0, tzinfo=UTC)
IDENTITY = ApiIdentity(from_email="someone@example.org", partner_name="Quiet Partner", partner_id="Private")
WITH_LATE_MONEY = "6c60fc01-d128-4047-a4f7-f6f6d2facc93"
WITH_SCRATCHING, SCRATCHED_BEFORE_S = "b6855e89-f008-4ded-aa47-5888cf4ed283", 2160
QUIET = "bc202bae-96e8-419e-9939-1741b3d46c4d"


@dataclass
class Evening:
    """The day's feed, a store, and when the races start."""

    simulator: RunningSimulator
    store: RaceStore
    starts: Mapping[str, datetime]

    def follow(self, race_id: str, *, from_s: int, to_s: int) -> dict[int, list[Signal]]:
        """Polls a race at its cadence between two times, in seconds before its start; the signals of each poll."""
        start = self.starts[race_id]
        at = start - timedelta(seconds=from_s)
        signals = {}
        with RacingApi(self.simulator.api_url, IDENTITY, utc_now=lambda: at) as api:
            while at <= start - timedelta(seconds=to_s):
                self.simulator.set_clock(at)
                event = api.fetch_race_event(race_id, deadline_s=5)
                assert event is not None
                snapshot = transform_race(event)
                write(self.store, snapshot, run_id=f"{race_id} {at}")
                poll = StoredPoll(race_id=race_id, polled_at=snapshot.polling_timestamp, start_time=start)
                signals[snapshot.time_to_start_s] = list(self.store.add_signals([poll], Thresholds()).signals)
                at += choose_interval(start - at)
        return signals


@pytest.fixture
def evening(database_url: str) -> Iterator[Evening]:
    with running_simulator(racing_day=DAY, now=EVENING, speed=0) as simulator, open_store(database_url) as store:
        with RacingApi(simulator.api_url, IDENTITY) as api:
            races = api.fetch_racing_day(DAY, deadline_s=20).races
        yield Evening(simulator, store, {race.race_id: race.start_time for race in races})


def test_late_money_is_seen_while_there_is_time_to_act(evening: Evening) -> None:
    signals = evening.follow(WITH_LATE_MONEY, from_s=180, to_s=15)
    moved = {signal.runner_number for at_s, found in signals.items() if at_s >= 30 for signal in found}
    assert moved
    assert all(signal.kind in {"money", "share"} for found in signals.values() for signal in found), (
        "no price is so old"
    )
    assert all(signal.is_alert and not signal.after_scratching for found in signals.values() for signal in found)


def test_a_scratching_marks_what_it_moves_for_two_polls(evening: Evening) -> None:
    signals = evening.follow(WITH_SCRATCHING, from_s=SCRATCHED_BEFORE_S + 150, to_s=SCRATCHED_BEFORE_S - 150)
    marks = {at_s: {signal.after_scratching for signal in found} for at_s, found in signals.items() if found}
    first, second, *later = sorted(marks, reverse=True)
    assert SCRATCHED_BEFORE_S - 120 <= second < first <= SCRATCHED_BEFORE_S
    assert (marks[first], marks[second]) == ({True}, {True})
    assert all(marks[at_s] == {False} for at_s in later)
    assert 3 not in {signal.runner_number for found in signals.values() for signal in found}, "it was scratched"


def test_a_race_where_nothing_moves_has_no_signal(evening: Evening) -> None:
    """Its betting is over: polls go on until it is final, with the prices and shares that it closed with."""
    signals = evening.follow(QUIET, from_s=-120, to_s=-480)
    assert len(signals) == 25
    assert not [signal for found in signals.values() for signal in found]
