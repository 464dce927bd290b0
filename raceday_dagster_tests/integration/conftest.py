"""The integration tier: everything in this folder is marked so, and shares one PostgreSQL server a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from raceday_dagster_tests.integration.postgres_fixture import (
    database_url,
    embedded_postgres,
    empty_database_url,
    home,
    own_server,
    schema_template,
    server,
    shared_home,
)
from raceday_dagster_tests.integration.store.store_fixture import store

__all__ = [
    "database_url",
    "embedded_postgres",
    "empty_database_url",
    "home",
    "own_server",
    "schema_template",
    "server",
    "shared_home",
    "store",
]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("integration")
