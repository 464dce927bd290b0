"""Which simulated day a sandbox shows: one racing day for its whole window, also on the nights the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_current_racing_day
from raceday_dagster.sandbox.sandbox import choose_simulation, find_window_start


def nz(*wall_clock: int, fold: int = 0) -> datetime:
    year, month, day, hour, minute = wall_clock
    return datetime(year, month, day, hour, minute, fold=fold, tzinfo=NEW_ZEALAND).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (nz(2026, 11, 22, 6, 0), nz(2026, 11, 22, 6, 0)),
        (nz(2026, 11, 22, 5, 59), nz(2026, 11, 22, 2, 0)),
        (nz(2026, 11, 22, 1, 59), nz(2026, 11, 21, 22, 0)),
        (nz(2026, 11, 22, 23, 59), nz(2026, 11, 22, 22, 0)),
        (nz(2026, 11, 22, 17, 30), nz(2026, 11, 22, 14, 0)),
        # The clocks go back on 5 April 2026: 02:30 comes twice.
        (nz(2026, 4, 5, 2, 30, fold=0), datetime(2026, 4, 4, 13, tzinfo=UTC)),
        (nz(2026, 4, 5, 2, 30, fold=1), datetime(2026, 4, 4, 13, tzinfo=UTC)),
        # They go forward on 27 September 2026: 02:00 does not come.
        (nz(2026, 9, 27, 3, 0), datetime(2026, 9, 26, 14, tzinfo=UTC)),
        (nz(2026, 9, 27, 1, 59), nz(2026, 9, 26, 22, 0)),
    ],
)
def test_a_window_begins_every_four_hours_by_the_clock_in_new_zealand(now: datetime, start: datetime) -> None:
    assert find_window_start(now) == start


@pytest.mark.parametrize("first", [nz(2026, 4, 4, 0, 0), nz(2026, 9, 26, 0, 0), nz(2026, 11, 22, 0, 0)])
def test_the_label_is_the_racing_day_under_way_at_all_times(first: datetime) -> None:
    instants = [first + timedelta(minutes=minutes) for minutes in range(0, 2 * 24 * 60, 15)]
    chosen = [choose_simulation(now) for now in instants]
    assert [simulation.racing_day for simulation in chosen] == [choose_current_racing_day(now) for now in instants]
    lengths: dict[int, int] = {}
    for simulation in chosen:
        lengths[simulation.seed] = lengths.get(simulation.seed, 0) + 15
    whole = list(lengths.values())[1:-1]  # the first and the last are cut off by the two days
    assert set(whole) <= {180, 240, 300}
    assert all(before.seed <= after.seed for before, after in pairwise(chosen)), "a window came back"
    assert len({simulation.database for simulation in chosen}) == len(lengths)
    assert all(simulation.first_start < now for simulation, now in zip(chosen, instants, strict=True))
