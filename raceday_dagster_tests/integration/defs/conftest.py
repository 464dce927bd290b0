"""What the tests of the jobs share: a racing day as it is. Those that need another open their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raceday_dagster_tests.integration.race_day import RaceDay, open_race_day


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url) as day:
        yield day


@pytest.fixture(autouse=True)
def fresh_simulator(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has the simulator do wrong, and what it asked of it, is forgotten at its end."""
    yield
    opened = request.getfixturevalue("day") if "day" in request.fixturenames else None
    if isinstance(opened, RaceDay):
        opened.simulator.clear_faults()
        opened.simulator.clear_requests()
