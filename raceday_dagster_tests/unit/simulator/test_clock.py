"""The simulated clock, on a monotonic clock of our own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from raceday_dagster.simulator.clock import SimulatedClock

NOON = datetime(2025, 7, 17, 0, 0, tzinfo=UTC)


def test_time_runs_at_its_speed_from_where_it_was_set() -> None:
    passed_s = 50.0
    clock = SimulatedClock(NOON, 60, monotonic=lambda: passed_s)
    passed_s += 2
    assert clock.now() == NOON + timedelta(minutes=2)
    clock.set(speed=0)
    passed_s += 100
    assert clock.now() == NOON + timedelta(minutes=2), "a change of speed keeps the instant, and 0 stands still"
    clock.advance(90)
    assert clock.now() == NOON + timedelta(minutes=2, seconds=90)
    clock.set(speed=10)
    clock.set(now=NOON - timedelta(days=1))
    passed_s += 1
    assert clock.now() == NOON - timedelta(days=1) + timedelta(seconds=10), "a jump keeps the speed"


@pytest.mark.parametrize("speed", [-1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        SimulatedClock(NOON, speed)


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        SimulatedClock(datetime(2025, 7, 17))  # noqa: DTZ001 - the point of the test
