"""What the tests of the pages share: an emptied database, and a client of the application on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from raceday_dagster_tests.integration.market.market_fixture import open_client


@pytest.fixture(scope="module")
def client(database_url: str) -> Iterator[TestClient]:
    """A client of the pages of that database."""
    with open_client(database_url) as client:
        yield client
