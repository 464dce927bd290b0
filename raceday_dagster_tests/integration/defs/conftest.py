"""What the tests of the jobs share: a racing day as it is. Those that need another open their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raceday_dagster_tests.integration.race_day import RaceDay, open_race_day


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url) as day:
        yield day
