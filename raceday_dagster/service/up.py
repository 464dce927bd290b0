"""``raceday up``: everything a racing day needs, in the foreground, until it is told to stop.

An orderly stop (Ctrl-C, SIGTERM, SIGHUP) ends with exit code 0; a service that cannot start or go on, with 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.sandbox import hold_alone
from raceday_dagster.service.console import Console, find_secrets
from raceday_dagster.service.dagster_instance import (
    ASK_WITHIN_S,
    HeartbeatWatch,
    ask_within,
    describe_switched_off,
    open_instance,
)
from raceday_dagster.service.environment import ServiceEnvironment, open_environment
from raceday_dagster.service.instance_lock import InstanceLock
from raceday_dagster.service.lost_runs import FINISH_WITHIN_S, LostRuns
from raceday_dagster.service.parts import Web, build_parts, check_address
from raceday_dagster.service.processes import ChildProcess
from raceday_dagster.service.service_files import (
    ServiceState,
    choose_environment,
    making_socket_folder,
    read_state,
    remove_state,
    write_state,
)
from raceday_dagster.service.supervisor import StopRequests, Supervisor
from raceday_dagster.service.wall_clock import WallClock, describe_step, put_back_all
from raceday_dagster.settings import SHARED_DATABASE, Settings
from raceday_dagster.web.address import is_loopback

MALLOC_ARENAS = "2"
"""Places from which the C library hands out memory to the threads of a part. By default each may have its own, up to
eight for each core, and what a thread of a tick gave back stays there: the daemon grew by 55 MB an hour."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(
    web: Web,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    *,
    feed_latency_ms: int | None = None,
) -> None:
    """Runs the service; returns after an orderly stop.

    Raises:
        RacedayError: One line: what is missing, in use, or does not stay up. Nothing is left running.
        StorageError: Dagster's database cannot be reached.
    """
    stop_requests: StopRequests = StopRequests()
    settings = Settings.from_environment(environment)
    with taking_stops(stop_requests), hold_home(settings.raceday_home.resolve()):
        check_address(web)
        if not is_loopback(web.host):
            say(f"WARNING: the UI on {web.host} has no login: whoever reaches it can launch and end runs")
        if settings.shares_database:
            say(f"WARNING: {SHARED_DATABASE}")
        with open_environment(environment, datetime.now(UTC), feed_latency_ms=feed_latency_ms) as opened:
            _serve(opened, web, say, stop_requests)
    say("stopped")


@contextmanager
def taking_stops(stop_requests: StopRequests) -> Iterator[None]:
    """Turns the signals that end a program into requests: a second Ctrl-C does not leave half of it running.

    A SIGHUP that the caller ignores, as ``nohup`` does, stays ignored; but not SIGINT, which a shell script ignores for
    all it starts in the background, nor SIGTERM: after a run in a process that ignores SIGINT, Dagster ignores both.
    """

    def request(number: int, _frame: FrameType | None) -> None:
        stop_requests.put(number)

    before = {
        number: signal.signal(number, request)
        for number in STOPS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hold_home(home: Path) -> AbstractContextManager[None]:
    """Keeps a second service off the socket, the logs and the state file of a home, whatever its databases.

    Raises:
        ServiceError: One runs there.
        SandboxError: The home cannot be used.
    """
    state = read_state(home)
    who = f" (pid {state.pid}, {state.url})" if state else ""
    busy = f"another `raceday up`{who} or `raceday worker` runs in {home}: stop it first, or set RACEDAY_HOME"
    return hold_alone(home, "up.lock", ServiceError(busy))


def _serve(environment: ServiceEnvironment, web: Web, say: Callable[[str], None], stop_requests: StopRequests) -> None:
    home, logs = environment.home, environment.home / "logs"
    variables = {
        "MALLOC_ARENA_MAX": MALLOC_ARENAS,
        **environment.variables,
        "PYTHONUNBUFFERED": "1",
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "1",  # seconds for calls, such as a sensor that waits for the next race
    }
    state = ServiceState(os.getpid(), web.url, datetime.now(UTC).isoformat(), choose_environment(variables))
    with ExitStack() as stack:
        console = stack.enter_context(closing(Console(logs, say, find_secrets(variables))))
        lock = stack.enter_context(closing(InstanceLock(variables["DAGSTER_PG_URL"], say)))
        lock.take()
        instance = stack.enter_context(open_instance(variables))
        lost_runs = LostRuns(instance, say)
        lost_runs.find(finish_within_s=FINISH_WITHIN_S)
        database_url = Settings.from_environment(variables).require_database_url()
        put_back = partial(put_back_all, instance, database_url, say)
        put_back()
        stack.callback(remove_state, home)
        try:
            parts = build_parts(
                Path(variables["DAGSTER_HOME"]),
                stack.enter_context(making_socket_folder(home)),
                web,
                launches_here="BROKER_URL" not in variables,
                does_daemon_work=HeartbeatWatch(instance).has_beaten,
                before_run_server=lost_runs.find,
                before_daemon=put_back,
            )
        except OSError as error:
            raise ServiceError(f"{error.filename or home} cannot be used: {error.strerror}") from error

        def say_ready() -> None:
            say(f"raceday is up: {web.url} on {environment.description}; logs in {logs}; Ctrl-C stops it")
            if off := ask_within(ASK_WITHIN_S, partial(describe_switched_off, instance)):
                say(off)

        clock = WallClock()

        def look_at_clock() -> None:
            if step := clock.read_step():
                say(f"the clock {describe_step(step)}")
            if step < timedelta(0):
                supervisor.replace("daemon", "daemon sleeps by the clock it had: it is killed")

        def look_after_all() -> None:
            environment.look_after(say)
            if stop_requests.empty() and lock.look() and stop_requests.empty():
                lost_runs.look()
                look_at_clock()
            console.close_minutes()

        supervisor = Supervisor(
            parts,
            lambda part: ChildProcess([sys.executable, "-m", *part.arguments], variables, console.open_log(part.name)),
            logs,
            stop_requests,
            say,
            on_ready=say_ready,
            on_change=lambda pids: _write_state(home, replace(state, children=pids), say),
            on_stop=console.mute,
            on_round=look_after_all,
        )
        try:
            supervisor.run()
        finally:
            lost_runs.end()


def _write_state(home: Path, state: ServiceState, say: Callable[[str], None]) -> None:
    try:
        write_state(home, state)
    except OSError as error:
        say(f"WARNING: {home}: {error.strerror}: `raceday health` finds this service through exported URLs only")
