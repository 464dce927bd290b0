"""``raceday worker``: a machine of a cluster, in the foreground, until it is told to stop.

Two parts: the run server, which forks a process for each run, and the Celery worker that takes runs from the broker for
it. Belongs here: what `raceday up` does differently. The rest is its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from raceday_dagster.dagster_plugins.machines import (
    BEAT_EVERY_S,
    name_heartbeat,
    read_machines,
    record_left_over_runs,
)
from raceday_dagster.errors import ServiceError
from raceday_dagster.service.console import Console, find_secrets
from raceday_dagster.service.dagster_instance import HeartbeatWatch, open_instance
from raceday_dagster.service.environment import ServiceEnvironment, open_environment
from raceday_dagster.service.parts import build_run_server
from raceday_dagster.service.processes import ChildProcess
from raceday_dagster.service.supervisor import Part, StopRequests, Supervisor
from raceday_dagster.service.up import MALLOC_ARENAS, hold_home, taking_stops
from raceday_dagster.settings import Settings

BROKER_WITHIN_S = 2
TAKER_STOP_S = 2.0
"""It waits for its runs, which the run server then ends."""


def run_worker(machine: str, runs: int, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Takes so many runs at once from the broker; returns after an orderly stop.

    Args:
        machine: The name of this machine, of no other one in the cluster.

    Raises:
        RacedayError: One line: what is missing, in use, or does not stay up. Nothing is left running.
        StorageError: Dagster's database cannot be reached.
    """
    settings = Settings.from_environment(environment)
    if settings.broker_url is None:
        raise ServiceError("BROKER_URL is not set: a worker takes runs from a broker (see docs/cluster.md)")
    settings.require_database_url()  # without it a service gets a sandbox, which no other machine sees
    stop_requests: StopRequests = StopRequests()
    with (
        taking_stops(stop_requests),
        hold_home(settings.raceday_home.resolve()),
        open_environment(environment, datetime.now(UTC)) as opened,
    ):
        _serve(machine, runs, opened, say, stop_requests)
    say("stopped")


def _serve(
    machine: str, runs: int, environment: ServiceEnvironment, say: Callable[[str], None], stop_requests: StopRequests
) -> None:
    logs = environment.home / "logs"
    variables = {"MALLOC_ARENA_MAX": MALLOC_ARENAS, **environment.variables, "PYTHONUNBUFFERED": "1"}
    with ExitStack() as stack:
        console = stack.enter_context(closing(Console(logs, say, find_secrets(variables))))
        instance = stack.enter_context(open_instance(variables))
        _check_broker(variables["BROKER_URL"])
        _check_name(instance, machine)
        if ended := record_left_over_runs(instance, machine):
            say(f"{ended} runs that this machine had before it was started again are marked as ended")
        parts = [
            build_run_server(Path(variables["DAGSTER_HOME"])),
            Part(
                "taker",
                ("raceday_dagster.dagster_plugins.celery_worker", machine, str(runs)),
                works=HeartbeatWatch(instance, name_heartbeat(machine)).has_beaten,
                stop_within_s=TAKER_STOP_S,
            ),
        ]
        Supervisor(
            parts,
            lambda part: ChildProcess([sys.executable, "-m", *part.arguments], variables, console.open_log(part.name)),
            logs,
            stop_requests,
            say,
            on_ready=lambda: say(
                f"machine {machine} (pid {os.getpid()}) takes {runs} runs at once for {environment.description}; "
                f"logs in {logs}; Ctrl-C stops it"
            ),
            on_stop=console.mute,
            on_round=console.close_minutes,
        ).run()


def _check_broker(url: str) -> None:
    """Raises ``ServiceError``: it cannot be reached. Later the Celery worker waits for it by itself."""
    from kombu.connection import Connection
    from kombu.exceptions import OperationalError

    try:
        with Connection(url, connect_timeout=BROKER_WITHIN_S) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=BROKER_WITHIN_S)
    except (OperationalError, OSError) as error:
        raise ServiceError(f"BROKER_URL: the broker cannot be reached: {error}") from error


def _check_name(instance: dg.DagsterInstance, machine: str) -> None:
    """Raises ``ServiceError``: another machine has this name, for its sign of life goes on."""
    before = read_machines(instance).get(machine)
    if before is None or before.has_left or before.is_silent(datetime.now(UTC)):
        return
    time.sleep(2 * BEAT_EVERY_S)
    if read_machines(instance).get(machine) != before:
        raise ServiceError(f"another machine of this cluster is called {machine}: give this one another --name")
