"""The simulated clock, on a monotonic clock of our own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from raceday_dagster.simulator.clock import SimulatedClock

NOON = datetime(2025, 7, 17, 0, 0, tzinfo=UTC)


class Seconds:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.passed = 50.0

    def __call__(self) -> float:
        return self.passed


def test_time_runs_at_its_speed() -> None:
    seconds = Seconds()
    clock = SimulatedClock(NOON, 60, monotonic=seconds)
    seconds.passed += 2
    assert clock.now() == NOON + timedelta(minutes=2)


def test_a_frozen_clock_stands_still_and_can_be_advanced() -> None:
    seconds = Seconds()
    clock = SimulatedClock(NOON, 0, monotonic=seconds)
    seconds.passed += 100
    assert clock.now() == NOON
    clock.advance(90)
    assert clock.now() == NOON + timedelta(seconds=90)


def test_a_change_of_speed_keeps_the_instant() -> None:
    seconds = Seconds()
    clock = SimulatedClock(NOON, 10, monotonic=seconds)
    seconds.passed += 3
    clock.set(speed=1)
    assert clock.now() == NOON + timedelta(seconds=30)
    seconds.passed += 1
    assert clock.now() == NOON + timedelta(seconds=31)


def test_a_jump_keeps_the_speed() -> None:
    seconds = Seconds()
    clock = SimulatedClock(NOON, 10, monotonic=seconds)
    clock.set(now=NOON - timedelta(days=1))
    seconds.passed += 1
    assert clock.now() == NOON - timedelta(days=1) + timedelta(seconds=10)


@pytest.mark.parametrize("speed", [-1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        SimulatedClock(NOON, speed)


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        SimulatedClock(datetime(2025, 7, 17))  # noqa: DTZ001 - the point of the test
