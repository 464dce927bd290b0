"""Everything a command needs to run here: a database, Dagster's storage, an API, the environment that names them, and
the command run in it.

A variable that is already set is kept: with ``NZTAB_API_URL`` set no simulator starts, with ``DATABASE_URL`` set no
database is made. Simulated races never go to a database the sandbox did not make, unless the caller says so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TextIO

import raceday_dagster
from raceday_dagster.errors import RacedayError, SandboxError
from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_current_racing_day
from raceday_dagster.sandbox.postgres import EmbeddedPostgres, build_libpq_url
from raceday_dagster.sandbox.postmaster import STOP_WITHIN_S
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.day import PROGRAMME
from raceday_dagster.simulator.running import RunningSimulator, SimulatorError, running_simulator
from raceday_dagster.store.schema.migrations import upgrade

IN_USE = "in-use.lock"
"""In a home, and held by whoever uses its server."""
WINDOW_HOURS = 4
WINDOW_OFFSET_HOURS = 2
IDENTITY = {
    "NZTAB_FROM_EMAIL": "sandbox@raceday.invalid",
    "NZTAB_PARTNER_NAME": "raceday sandbox",
    "NZTAB_PARTNER_ID": "raceday-sandbox",
}


@dataclass(frozen=True)
class Simulation:
    """A simulated racing day and where its rows go.

    The day is a function of ``seed``, ``racing_day`` and ``first_start``; its races live in a database of their own,
    so that another day's races are never mixed with them.
    """

    seed: int
    racing_day: date
    first_start: datetime
    database: str
    fresh_database: bool = False
    """Whether what an earlier sandbox left in ``database`` is dropped first."""
    now: datetime | None = None
    """Where the simulated clock begins; ``None`` is the real time."""
    speed: float = 1.0
    latency_ms: int = 0
    """Added to every answer for a race."""
    meetings: int = len(PROGRAMME)
    """Of the day; more than the programme has are the same ones again, with other ids."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox: the environment for a command, and the simulator if one was started."""

    environment: dict[str, str]
    simulator: RunningSimulator | None


def choose_simulation(now: datetime, speed: float = 1.0) -> Simulation:
    """The simulated day around ``now``: the same one for four hours, so that a restart finds its races again, and
    always one with races to come. It is labelled with the racing day that is under way throughout those hours."""
    window = find_window_start(now)
    seed = int(window.timestamp()) // 3600  # windows begin on whole hours
    return Simulation(
        seed=seed,
        racing_day=choose_current_racing_day(window),
        first_start=window - timedelta(minutes=30),
        # A faster day has been further than a new one begins: its rows would make every answer an old one.
        database=f"raceday_simulated_{seed}" if speed == 1 else "raceday_simulated_fast",
        fresh_database=speed != 1,
        speed=speed,
    )


def find_window_start(now: datetime) -> datetime:
    """When the four hours around ``now`` began: at 2, 6, 10, 14, 18 or 22 o'clock in New Zealand, one of which is the
    06:00 at which the racing day turns. The night the clocks change has one of three or of five hours."""
    wall_clock = now.astimezone(NEW_ZEALAND).replace(tzinfo=None)
    hours = (wall_clock.hour - WINDOW_OFFSET_HOURS) % WINDOW_HOURS
    start = wall_clock.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    # The first of two equal hours in autumn; a time that is skipped in spring is the instant of the skip.
    return start.replace(tzinfo=NEW_ZEALAND, fold=0).astimezone(UTC)


@contextmanager
def open_sandbox(
    environment: Mapping[str, str],
    simulation: Simulation,
    *,
    allow_simulated_data: bool = False,
    stop_within_s: float = STOP_WITHIN_S,
) -> Iterator[Sandbox]:
    """Starts what ``environment`` lacks, and stops what it started, the server without its checkpoint if need be.

    Raises:
        SettingsError: A variable that is set is wrong.
        SandboxError: The server or the simulator does not start, or the combination of variables is unsafe.
    """
    environment = {name: value for name, value in environment.items() if value.strip()}  # as Settings reads it
    settings = Settings.from_environment(environment)
    _refuse_unsafe(settings, allow_simulated_data)
    simulated = "nztab_api_url" not in settings.model_fields_set
    home = settings.raceday_home.resolve()
    added: dict[str, str] = {}
    with ExitStack() as stack:
        if settings.database_url is None:
            server = stack.enter_context(hold_server(home, stop_within_s))
            name = simulation.database if simulated else "raceday"
            if simulated and simulation.fresh_database:
                server.drop_database(name)
            url = server.create_database(name, owner=name, connection_limit=settings.db_pool_max)
            upgrade(url)
            added["DATABASE_URL"] = build_libpq_url(url)
            if settings.dagster_pg_url is None:
                added["DAGSTER_PG_URL"] = build_libpq_url(server.create_dagster_database())
        simulator = None
        if simulated:
            simulator = stack.enter_context(_simulate(simulation))
            added["NZTAB_API_URL"] = simulator.api_url
            added |= {name: value for name, value in IDENTITY.items() if not environment.get(name)}
            if settings.vision_api_url is None:
                added["VISION_API_URL"] = simulator.vision_url
        yield Sandbox({**complete_environment(environment, settings), **added}, simulator)


def complete_environment(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """With the home, with a ``DAGSTER_HOME`` in it that is made unless one is named, and with a path on which `dagster`
    and `raceday` are found even when the virtual environment is not activated.

    Raises:
        SandboxError: ``write_instance_config`` says why.
    """
    home = settings.raceday_home.resolve()
    if "DAGSTER_HOME" not in environment:
        write_instance_config(home / "dagster", of_cluster=settings.broker_url is not None)
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return {"DAGSTER_HOME": str(home / "dagster"), **environment, "RACEDAY_HOME": str(home), "PATH": path}


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs ``command`` to its end and returns its exit code, 128 + n when signal n ended it.

    Ctrl-C reaches the command through the terminal; a SIGTERM and a SIGHUP are forwarded. Either way the caller gets
    to clean up after the command has ended, not before.

    Raises:
        SandboxError: There is no such command.
    """
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        # A terminal has sent its SIGINT to the whole group already.
        if number != signal.SIGINT and process is not None and process.poll() is None:
            process.send_signal(number)

    # Before the command starts: it would inherit that SIGINT is ignored, as a script's background job has it, and
    # `dagster dev` then cannot be stopped. A handler is not inherited.
    before = {number: signal.signal(number, forward) for number in _stops()}
    try:
        process = subprocess.Popen(command, env=dict(environment))
        code = process.wait()
    except OSError as error:
        raise SandboxError(f"cannot run {command[0]!r}: {error.strerror}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def wait_for_stop() -> None:
    """Returns when Ctrl-C or a SIGTERM has come, or the terminal was closed."""
    signals = _stops()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        signal.sigwait(signals)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stops() -> set[signal.Signals]:
    """The signals that end a command; not SIGHUP when the caller ignores it, as ``nohup`` does."""
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    return {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} - ignored


@contextmanager
def _simulate(simulation: Simulation) -> Iterator[RunningSimulator]:
    try:
        with running_simulator(
            seed=simulation.seed,
            racing_day=simulation.racing_day,
            first_start=simulation.first_start,
            now=simulation.now or datetime.now(UTC),
            speed=simulation.speed,
            latency_ms=simulation.latency_ms,
            meetings=simulation.meetings,
        ) as simulator:
            yield simulator
    except SimulatorError as error:
        raise SandboxError(f"the simulated API: {error}") from error


@contextmanager
def hold_server(home: Path, stop_within_s: float = STOP_WITHIN_S) -> Iterator[EmbeddedPostgres]:
    """The embedded server, running; the last who holds it stops it, unless ``raceday db start`` started it."""
    server = EmbeddedPostgres(home)
    with open_lock(home) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not server.status().running:
            kept_mark(home).unlink(missing_ok=True)
        try:
            # In a thread, because signals come to the main one: a start that is cut short may leave a server behind
            # that has no pid file yet, and so is not found. Leaving the block waits for the start.
            with ThreadPoolExecutor(max_workers=1) as starter:
                starter.submit(server.start).result()
            yield server
        finally:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses it, and will come by here
            else:
                if not kept_mark(home).exists():
                    server.stop(stop_within_s)


@contextmanager
def open_lock(home: Path, name: str = IN_USE) -> Iterator[TextIO]:
    """A file in ``home`` to hold an ``flock`` on; closing it lets go.

    Raises:
        SandboxError: ``home`` is no folder this user may write in.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / name).open("a")
    except OSError as error:
        raise SandboxError(f"RACEDAY_HOME {home} cannot be used: {error.strerror}; choose another") from error
    with lock:
        yield lock


@contextmanager
def hold_alone(home: Path, name: str, busy: RacedayError) -> Iterator[None]:
    """Holds the file ``name`` in ``home`` for the length of the block, or raises ``busy`` when somebody else does."""
    with open_lock(home, name) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield


def kept_mark(home: Path) -> Path:
    """The file that says the server was started by hand and is stopped by hand."""
    return home / "started-by-hand"


def find_instance_config(*, of_cluster: bool = False) -> Path:
    """``dagster.yaml`` or ``dagster.cluster.yaml``: beside the package in a checkout, inside it in a wheel."""
    name = "dagster.cluster.yaml" if of_cluster else "dagster.yaml"
    package = Path(raceday_dagster.__file__).parent
    for folder in (package, package.parent):
        if (folder / name).is_file():
            return folder / name
    raise SandboxError(f"{name} is neither in {package} nor beside it: install the package again")


def write_instance_config(dagster_home: Path, *, of_cluster: bool = False) -> None:
    """Puts a copy of ``dagster.yaml``, or that of several machines, into a ``DAGSTER_HOME`` of ours, made if need be.

    Raises:
        SandboxError: It is no folder this user may write in, or the disk is full.
    """
    copy = dagster_home / f"dagster.yaml.{os.getpid()}"
    try:
        dagster_home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find_instance_config(of_cluster=of_cluster), copy)
        copy.replace(dagster_home / "dagster.yaml")  # at no moment half there: another Dagster may read it
    except OSError as error:
        raise SandboxError(f"{dagster_home} cannot be used: {error.strerror}; set RACEDAY_HOME elsewhere") from error


def _refuse_unsafe(settings: Settings, allow_simulated_data: bool) -> None:
    if settings.database_url is None:
        return
    if "nztab_api_url" not in settings.model_fields_set and not allow_simulated_data:
        raise SandboxError(
            "DATABASE_URL is set and NZTAB_API_URL is not: simulated races would go into your database; unset "
            "DATABASE_URL, set NZTAB_API_URL, or say --allow-simulated-data"
        )
    if settings.dagster_pg_url is None:
        raise SandboxError(
            "DATABASE_URL is set and DAGSTER_PG_URL is not: no server is started then, and Dagster needs a database "
            "of its own; set DAGSTER_PG_URL too, or unset DATABASE_URL"
        )
