"""One ``raceday up`` for the tests of this folder, which follow it, break it or look at it in a browser.

They run in one worker (see ``raceday_dagster_tests/conftest.py``), a file after the other, and the last one ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.live_day import LiveDay, open_live_day
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.postgres_fixture import open_server_folder

LATENCY_MS = 100


@pytest.fixture(scope="package")
def live_day_home() -> Iterator[Path]:
    """The folder of the service's state."""
    with open_server_folder() as folder:
        yield folder
        EmbeddedPostgres(folder).stop()  # a killed service leaves it


@pytest.fixture(scope="package")
def live_day(live_day_home: Path) -> Iterator[LiveDay]:
    """The service, up on a sandbox."""
    with open_live_day(live_day_home, latency_ms=LATENCY_MS) as day:
        yield day
