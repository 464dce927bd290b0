"""``raceday up``: everything a racing day needs, in the foreground, until it is told to stop.

An orderly stop (Ctrl-C, SIGTERM, SIGHUP) ends with exit code 0; a service that cannot start or go on, with 1.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.sandbox import open_lock
from raceday_dagster.service.dagster_storage import DaemonWatch, describe_switched_off, open_instance
from raceday_dagster.service.instance_lock import InstanceLock
from raceday_dagster.service.left_runs import LeftRuns
from raceday_dagster.service.parts import Web, build_parts, refuse_host, refuse_port
from raceday_dagster.service.service_files import (
    ServiceState,
    choose_environment,
    make_socket_folder,
    read_state,
    remove_state,
    write_state,
)
from raceday_dagster.service.supervisor import Mailbox, Stop, Supervisor
from raceday_dagster.service.surroundings import Surroundings, open_surroundings
from raceday_dagster.settings import Settings
from raceday_dagster.web.address import is_loopback

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(
    web: Web,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    *,
    feed_latency_ms: int | None = None,
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Runs the service; returns after an orderly stop.

    Raises:
        RacedayError: One line: what is missing, in use, or does not stay up. Nothing is left running.
        StorageError: Dagster's database cannot be reached.
    """

    def say_timed(line: str) -> None:
        say(f"{utc_now().astimezone():%H:%M:%S} {line}")

    mailbox: Mailbox = Mailbox()
    with taking_stops(mailbox):
        refuse_host(web)
        if not is_loopback(web.host):
            say_timed(f"WARNING: the UI on {web.host} has no login: whoever reaches it can launch and end runs")
        with holding_home(Settings.from_environment(environment).raceday_home.resolve()):
            refuse_port(web)
            with open_surroundings(environment, utc_now(), feed_latency_ms=feed_latency_ms) as surroundings:
                _serve(surroundings, web, say_timed, mailbox, utc_now)
    say_timed("stopped")


@contextmanager
def taking_stops(mailbox: Mailbox) -> Iterator[None]:
    """Turns the signals that end a program into mail: a second Ctrl-C does not leave half of it running.

    What the caller ignores, as ``nohup`` does SIGHUP, stays ignored; but not SIGINT, which a shell script ignores for
    all it starts in the background.
    """

    def post(_number: int, _frame: FrameType | None) -> None:
        mailbox.put(Stop())

    before = {
        number: signal.signal(number, post)
        for number in STOPS
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def holding_home(home: Path) -> Iterator[None]:
    """Keeps a second service off the socket, the logs and the state file of a home, whatever its databases.

    Raises:
        ServiceError: One runs there.
        SandboxError: The home cannot be used.
    """
    with open_lock(home, "up.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(home)
            who = f" (pid {state.pid}, {state.url})" if state else ""
            raise ServiceError(
                f"another `raceday up`{who} runs in {home}: stop it first, or set RACEDAY_HOME"
            ) from None
        yield


def _serve(
    surroundings: Surroundings,
    web: Web,
    say: Callable[[str], None],
    mailbox: Mailbox,
    utc_now: Callable[[], datetime],
) -> None:
    home, began_at = surroundings.home, utc_now()
    stopping = threading.Event()
    with ExitStack() as stack:
        lock = InstanceLock(surroundings.environment["DAGSTER_PG_URL"])
        stack.callback(lock.close)
        lock.take()
        lock.keep(lambda reason: mailbox.put(Stop(error=reason)), say)
        instance = stack.enter_context(open_instance(surroundings.environment))
        left_runs = LeftRuns(instance, home, say)
        left_runs.look()
        stack.callback(left_runs.close)
        stack.callback(remove_state, home)

        def write(pids: dict[str, int]) -> None:
            kept = choose_environment(surroundings.environment)
            try:
                write_state(home, ServiceState(os.getpid(), web.url, began_at.isoformat(), kept, pids))
            except OSError as error:
                say(
                    f"WARNING: {home}: {error.strerror}: `raceday health` finds this service through exported URLs only"
                )

        try:
            parts = build_parts(
                surroundings,
                make_socket_folder(home),
                web,
                lambda line: None if stopping.is_set() else say(line),  # what breaks because others end is no news
                is_daemon_ready=DaemonWatch(instance, began_at).is_ready,
                before_code_server=left_runs.look,
            )
        except OSError as error:
            raise ServiceError(f"{error.filename or home} cannot be used: {error.strerror}") from error
        ready = f"raceday is up: {web.url} on {surroundings.description}; logs in {home / 'logs'}; Ctrl-C stops it"

        def say_ready() -> None:
            say(ready)
            if off := describe_switched_off(instance):
                say(off)

        supervisor = Supervisor(
            parts,
            mailbox,
            say,
            on_ready=say_ready,
            on_change=write,
            on_stop=stopping.set,
            on_round=lambda: surroundings.look_after(say),
        )
        try:
            supervisor.run()
        finally:
            left_runs.look(last=True)  # one that had to be killed in the end is not left as started
