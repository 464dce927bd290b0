"""Simulated time: a clock that starts anywhere, runs at any speed, and can be set or moved while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SimulatedClock:
    """Simulated instant = start + elapsed monotonic time x speed.

    `start` must be timezone-aware. `speed` 1 is real time, 60 a minute a second, 0 stands still.
    `monotonic` gives seconds and never goes back.
    """

    def __init__(self, start: datetime, speed: float = 1.0, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._start = _require_aware(start)
        self._speed = _require_forward(speed)
        self._origin_s = monotonic()

    def now(self) -> datetime:
        """The simulated instant, in the zone the clock was given."""
        return self._start + timedelta(seconds=(self._monotonic() - self._origin_s) * self._speed)

    def set(self, *, now: datetime | None = None, speed: float | None = None) -> None:
        """Jump to an instant, change the speed, or both. ValueError for a naive instant or a negative speed."""
        start = self.now() if now is None else _require_aware(now)
        speed = self._speed if speed is None else _require_forward(speed)
        self._start, self._speed, self._origin_s = start, speed, self._monotonic()

    def advance(self, seconds: float) -> None:
        """Jump forwards, or backwards when `seconds` is negative."""
        self.set(now=self.now() + timedelta(seconds=seconds))


def write_instant(instant: datetime) -> str:
    """ISO with Z and nine fractional digits, as the API has it."""
    at = instant.astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}{at.microsecond * 7919 % 997 + 1:03d}Z"


def _require_aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"a simulated instant needs a time zone: {instant.isoformat()}")
    return instant


def _require_forward(speed: float) -> float:
    if not 0 <= speed < float("inf"):
        raise ValueError(f"the speed must be 0 or more: {speed}")
    return speed
