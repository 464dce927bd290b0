"""What the tests of the executor share: an instance in memory, and a probe that has seen nothing yet."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from raceday_dagster_tests.integration.dagster_plugins.executor_probe import probe


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(autouse=True)
def fresh_probe() -> None:
    probe.reset()
