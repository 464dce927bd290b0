"""The machines of a cluster: the sign of life of each, kept among the heartbeats of Dagster's daemons, and their runs.

Belongs here: what both sides need, without Celery. The clocks of the machines are compared: they must agree to a few
seconds, which polls need anyway.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
from dagster._daemon.types import DaemonHeartbeat

from raceday_dagster.dagster_plugins.run_process import record_end

MACHINE_TAG = "raceday/machine"
"""Of a run: the name of the machine that executes it."""
BEAT_EVERY_S = 2.0
DEAD_AFTER = timedelta(seconds=20)
"""A machine without a sign of life for so long has lost its runs. A Celery worker that hangs is replaced sooner."""
FORGOTTEN_AFTER = timedelta(days=1)
"""A machine that died so long ago is not missed any more."""
_PREFIX = "raceday worker "
_LEFT = "left"
"""The last heartbeat of a machine that left in order says so in the place of its id."""


class Machine(NamedTuple):
    """What is known of a machine."""

    seen_at: datetime
    """Its last sign of life, by its own clock."""
    has_left: bool = False
    """In order: it is not missed, and its runs have as long to end as those of a dead one."""

    def is_silent(self, now: datetime) -> bool:
        """Whether it has given no sign of life for `DEAD_AFTER`. A clock that far ahead is none either."""
        return abs(now - self.seen_at) >= DEAD_AFTER


def name_heartbeat(machine: str) -> str:
    """Under which its sign of life is kept."""
    return _PREFIX + machine


def beat(instance: dg.DagsterInstance, machine: str) -> None:
    """Say that a machine lives."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), name_heartbeat(machine), machine, errors=[]))


def leave(instance: dg.DagsterInstance, machine: str) -> None:
    """Say that a machine takes no further runs and is not missed."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), name_heartbeat(machine), _LEFT, errors=[]))


def read_machines(instance: dg.DagsterInstance) -> dict[str, Machine]:
    """Every machine that has ever been in the cluster, by name."""
    return {
        name.removeprefix(_PREFIX): Machine(
            datetime.fromtimestamp(heartbeat.timestamp, UTC), heartbeat.daemon_id == _LEFT
        )
        for name, heartbeat in instance.get_daemon_heartbeats().items()
        if name.startswith(_PREFIX)
    }


def find_living(machines: Mapping[str, Machine], now: datetime) -> list[str]:
    """Names of the machines that take runs."""
    return sorted(name for name, each in machines.items() if not (each.has_left or each.is_silent(now)))


def find_missed(machines: Mapping[str, Machine], now: datetime) -> list[str]:
    """Names of the machines that fell silent within the last day and had not left."""
    return sorted(
        name
        for name, each in machines.items()
        if not each.has_left and each.is_silent(now) and abs(now - each.seen_at) < FORGOTTEN_AFTER
    )


def is_lost(run: dg.DagsterRun, machines: Mapping[str, Machine], now: datetime) -> bool:
    """Whether a run that has not ended was begun by a machine that has been silent since."""
    # A run that has not started may carry the tag of the run that it repeats.
    if run.status not in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING) or MACHINE_TAG not in run.tags:
        return False
    machine = machines.get(run.tags[MACHINE_TAG])
    return machine is None or machine.is_silent(now)


def record_left_over_runs(instance: dg.DagsterInstance, machine: str) -> int:
    """Mark the runs that a machine had when it died as ended, before it takes others; how many there were.

    Its heartbeat is about to return, so nobody else would see that they are lost.
    """
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    runs = instance.get_runs(dg.RunsFilter(tags={MACHINE_TAG: machine}, statuses=unfinished))
    reason = f"Machine {machine} of this run has been started again."
    return sum(record_end(instance, run.run_id, reason) is not None for run in runs)
