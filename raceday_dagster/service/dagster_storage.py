"""Dagster's instance as the service reads it, from this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg


@contextmanager
def open_instance(environment: Mapping[str, str]) -> Iterator[dg.DagsterInstance]:
    """The instance that ``DAGSTER_HOME`` and ``DAGSTER_PG_URL`` of an environment name.

    Raises:
        StorageError: Its database cannot be reached.
    """
    # Our storage reads its address from this process's environment, as every Dagster process does.
    os.environ["DAGSTER_PG_URL"] = environment["DAGSTER_PG_URL"]
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        yield instance


def read_heartbeats(instance: dg.DagsterInstance) -> dict[str, datetime | None]:
    """The last sign of life of each daemon that the instance needs, ``None`` for one that never gave any."""
    found = instance.get_daemon_heartbeats()
    return {
        name: datetime.fromtimestamp(found[name].timestamp, UTC) if name in found else None
        for name in instance.get_required_daemon_types()
    }


def read_sensor_status(instance: dg.DagsterInstance, name: str) -> str | None:
    """``RUNNING``, ``STOPPED`` or ``DECLARED_IN_CODE`` (as its definition says); ``None`` when it was never seen."""
    states = [state for state in instance.all_instigator_state() if state.instigator_name == name]
    # A sensor that has moved to another code location leaves its old state behind: any that runs will do.
    return next((s.status.value for s in states if s.status.value != "STOPPED"), "STOPPED" if states else None)
