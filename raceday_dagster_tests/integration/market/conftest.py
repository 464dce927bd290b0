"""What the tests of the pages share: an emptied database, and a client of the application on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.market.market_fixture import open_client
from raceday_dagster_tests.integration.store.store_fixture import open_store


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    """A store on an emptied database."""
    with open_store(database_url) as store:
        yield store


@pytest.fixture(scope="module")
def client(database_url: str) -> Iterator[TestClient]:
    """A client of the pages of that database."""
    with open_client(database_url) as client:
        yield client
