"""Dagster's instance as the service reads it, from this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import dagster as dg
from dagster_shared.check import CheckError
from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.daemon import POLLING_DAEMON
from raceday_dagster.dagster_plugins.run_coordinator import LiveLaneRunCoordinator
from raceday_dagster.dagster_plugins.storage import StorageError, is_on
from raceday_dagster.errors import ServiceError

SENSOR = "due_races"
HELPERS = (
    "first_baseline",
    "alerts",
    "daily_baseline_schedule",
    "meeting_status_schedule",
    "evening_backfill_schedule",
    "maintenance_schedule",
    "data_checks_schedule",
)
"""The other sensors and the schedules: without one of them the races of today are polled nevertheless."""
RUN_LAUNCHER, CLUSTER_LAUNCHER = "RunServerLauncher", "ClusterRunLauncher"
"""Their classes: the second is not imported here, for it needs Celery."""
CONFIGS = {RUN_LAUNCHER: "dagster.yaml", CLUSTER_LAUNCHER: "dagster.cluster.yaml"}
ASK_WITHIN_S = 1.0
Answer = TypeVar("Answer")


@contextmanager
def open_instance(environment: Mapping[str, str]) -> Iterator[dg.DagsterInstance]:
    """The instance that ``DAGSTER_HOME`` and ``DAGSTER_PG_URL`` of an environment name.

    Raises:
        StorageError: Its database cannot be reached.
        ServiceError: It is set up for another database, or without the live lane or the run launcher; or BROKER_URL
            is set without the extra that it needs.
    """
    # Dagster's parts read these from this process's environment, as in every Dagster process.
    url = os.environ["DAGSTER_PG_URL"] = environment["DAGSTER_PG_URL"]
    launcher = RUN_LAUNCHER
    if "BROKER_URL" in environment:
        if find_spec("dagster_celery") is None:
            raise ServiceError(
                "BROKER_URL is set, which needs more: pip install 'raceday-dagster[cluster]', or unset it"
            )
        os.environ["BROKER_URL"] = environment["BROKER_URL"]
        launcher = CLUSTER_LAUNCHER
    home = Path(environment["DAGSTER_HOME"])
    foreign = ServiceError(
        f"DAGSTER_HOME {home} has no dagster.yaml with this service's storage on DAGSTER_PG_URL, its live lane and its "
        f"{launcher}: unset DAGSTER_HOME, or copy the {CONFIGS[launcher]} of this release there as dagster.yaml; "
        "BROKER_URL must be that of the service"
    )
    if not (home / "dagster.yaml").is_file():
        raise foreign
    with dg.DagsterInstance.from_config(str(home)) as instance:
        if not _is_ours(instance, url, launcher):
            raise foreign
        yield instance


def _is_ours(instance: dg.DagsterInstance, url: str, launcher: str) -> bool:
    try:
        return (
            is_on(instance, url)
            and isinstance(instance.run_coordinator, LiveLaneRunCoordinator)
            and type(instance.run_launcher).__name__ == launcher
        )
    except CheckError:  # it names a class that is not there, such as one of an older release
        return False


def ask_within(seconds: float, ask: Callable[[], Answer]) -> Answer | None:
    """What ``ask`` returns, or ``None`` if its database cannot be reached or has not answered in time.

    It is called in a thread: a client waits for ever for a database that stands still, and the supervisor must not. The
    thread may go on, so what ``ask`` changes must still be right later.
    """
    answers: SimpleQueue[Answer | None] = SimpleQueue()

    def run() -> None:
        answer = None
        try:
            answer = ask()
        except (DBAPIError, StorageError):
            pass  # whoever needs the answer says so
        finally:
            answers.put(answer)

    threading.Thread(target=run, name="dagster-database", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return None


class HeartbeatWatch:
    """Whether something works, by its heartbeat in Dagster's database; by default the daemon that runs the sensors. Not
    by its time: a clock may be set."""

    def __init__(self, instance: dg.DagsterInstance, daemon: str = POLLING_DAEMON) -> None:
        self._instance = instance
        self._daemon = daemon
        self._is_asking = False
        self._last: object = self._read().get(daemon)

    def has_beaten(self) -> bool | None:
        """Whether it has given a sign of life since this was last asked; ``None`` if its database does not answer."""
        if self._is_asking:  # still: one thread is enough, and one connection once the database goes on
            return None
        self._is_asking = True
        beats = ask_within(ASK_WITHIN_S, self._read)
        if beats is None:
            return None
        before, self._last = self._last, beats.get(self._daemon)
        return self._last != before

    def _read(self) -> Mapping[str, object]:
        try:
            return self._instance.get_daemon_heartbeats()
        finally:
            self._is_asking = False


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
    statuses = read_automation(instance)
    off = [name for name in (SENSOR, *HELPERS) if statuses.get(name) == "STOPPED"]
    return f"WARNING: switched off in the UI, and not run: {', '.join(off)}" if off else None
