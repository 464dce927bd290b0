"""The machines of a cluster: the sign of life of each, kept among the heartbeats of Dagster's daemons, and their runs.

Belongs here: what both sides need, without Celery. The clocks of the machines are compared: they must agree to a few
seconds, which polls need anyway.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._daemon.types import DaemonHeartbeat

MACHINE_TAG = "raceday/machine"
"""Of a run: the name of the machine that executes it."""
BEAT_EVERY_S = 2.0
DEAD_AFTER = timedelta(seconds=10)
"""A machine without a sign of life for so long has lost its runs."""
_PREFIX = "raceday worker "
_LEFT_AT_S = 0.0
"""The heartbeat of a machine that left in order: none will follow."""


def name_heartbeat(machine: str) -> str:
    """Under which its sign of life is kept."""
    return _PREFIX + machine


def beat(instance: dg.DagsterInstance, machine: str) -> None:
    """Say that a machine lives."""
    _write(instance, machine, time.time())


def leave(instance: dg.DagsterInstance, machine: str) -> None:
    """Say that a machine takes no further runs and is not missed."""
    _write(instance, machine, _LEFT_AT_S)


def _write(instance: dg.DagsterInstance, machine: str, at_s: float) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(at_s, name_heartbeat(machine), machine, errors=[]))


def read_machines(instance: dg.DagsterInstance) -> dict[str, datetime]:
    """The last sign of life of each machine that has not left in order, by its own clock."""
    return {
        name.removeprefix(_PREFIX): datetime.fromtimestamp(heartbeat.timestamp, UTC)
        for name, heartbeat in instance.get_daemon_heartbeats().items()
        if name.startswith(_PREFIX) and heartbeat.timestamp > _LEFT_AT_S
    }


def find_living(machines: Mapping[str, datetime], now: datetime) -> list[str]:
    """The machines that have given a sign of life of late."""
    return sorted(name for name, seen_at in machines.items() if now - seen_at < DEAD_AFTER)


def is_lost(run: dg.DagsterRun, machines: Mapping[str, datetime], now: datetime) -> bool:
    """Whether a run that has not ended was begun by a machine that is dead or has left."""
    # A run that has not started may carry the tag of the run that it repeats.
    if run.status not in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING) or MACHINE_TAG not in run.tags:
        return False
    return run.tags[MACHINE_TAG] not in find_living(machines, now)
