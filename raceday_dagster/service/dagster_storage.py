"""Dagster's instance as the service reads it, from this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.run_coordinator import LiveLaneRunCoordinator
from raceday_dagster.dagster_plugins.storage import StorageError, is_on
from raceday_dagster.errors import ServiceError
from raceday_dagster.service.health import HELPERS, SENSOR


@contextmanager
def open_instance(environment: Mapping[str, str]) -> Iterator[dg.DagsterInstance]:
    """The instance that ``DAGSTER_HOME`` and ``DAGSTER_PG_URL`` of an environment name.

    Raises:
        StorageError: Its database cannot be reached.
        ServiceError: It is set up for another database, or without the live lane.
    """
    # Our storage reads its address from this process's environment, as every Dagster process does.
    url = os.environ["DAGSTER_PG_URL"] = environment["DAGSTER_PG_URL"]
    home = Path(environment["DAGSTER_HOME"])
    foreign = ServiceError(
        f"DAGSTER_HOME {home} has no dagster.yaml with this service's storage on DAGSTER_PG_URL and its live lane: "
        "unset DAGSTER_HOME, or copy the dagster.yaml of this release there"
    )
    if not (home / "dagster.yaml").is_file():
        raise foreign
    with dg.DagsterInstance.from_config(str(home)) as instance:
        if not is_on(instance, url) or not isinstance(instance.run_coordinator, LiveLaneRunCoordinator):
            raise foreign
        yield instance


class DaemonWatch:
    """Whether every daemon gave a sign of life after an instant; asked in a thread, as a database may hang."""

    def __init__(self, instance: dg.DagsterInstance, after: datetime) -> None:
        self._instance = instance
        self._after = after
        self._seen = threading.Event()
        self._asking: threading.Thread | None = None

    def is_ready(self) -> bool:
        """What is known by now; the next round knows more."""
        if not self._seen.is_set() and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, name="daemon-watch", daemon=True)
            self._asking.start()
        return self._seen.is_set()

    def _ask(self) -> None:
        try:
            beats = read_heartbeats(self._instance).values()
        except (DBAPIError, StorageError):
            return  # it comes back, or the time to get ready runs out
        if all(beat is not None and beat > self._after for beat in beats):
            self._seen.set()


def read_heartbeats(instance: dg.DagsterInstance) -> dict[str, datetime | None]:
    """The last sign of life of each daemon that the instance needs, ``None`` for one that never gave any."""
    found = instance.get_daemon_heartbeats()
    return {
        name: datetime.fromtimestamp(found[name].timestamp, UTC) if name in found else None
        for name in instance.get_required_daemon_types()
    }


def read_automation(instance: dg.DagsterInstance) -> dict[str, str]:
    """``RUNNING``, ``STOPPED`` or ``DECLARED_IN_CODE`` (as its definition says) of each sensor and schedule seen."""
    statuses: dict[str, str] = {}
    for state in instance.all_instigator_state():
        # One that has moved to another code location leaves its old state behind: any that runs will do.
        if statuses.get(state.instigator_name, "STOPPED") == "STOPPED":
            statuses[state.instigator_name] = state.status.value
    return statuses


def describe_switched_off(instance: dg.DagsterInstance) -> str | None:
    """A warning that names the sensors and schedules that somebody switched off: they stay off from start to start."""
    try:
        statuses = read_automation(instance)
    except (DBAPIError, StorageError):
        return None  # that it is away is said elsewhere
    off = [name for name in (SENSOR, *HELPERS) if statuses.get(name) == "STOPPED"]
    return f"WARNING: switched off in the UI, and not run: {', '.join(off)}" if off else None
