"""Calculations for the worker tests: run in a worker instead of the real one, steered by the race's name.

A name is a path: of a named pipe that holds the worker until the test opens it, or of a folder that counts attempts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race

UNWANTED = ("dagster", "psycopg2", "pytest", "hypothesis", "psutil", "responses", "time_machine", "mypy", "ruff")
"""What a worker must do without: the orchestrator, the database, and all that a production install lacks."""


def wait_at_gate(event: RaceEvent) -> RaceSnapshot:
    """Blocks until the pipe is opened for writing, then notes in its folder that it ran."""
    gate = Path(event.name)
    gate.read_bytes()
    with (gate.parent / "order").open("a", encoding="utf-8") as order:
        order.write(event.race_id + "\n")
    return transform_race(event)


def _die_once(event: RaceEvent, die: Callable[[], object], lives: int = 1) -> RaceSnapshot:
    attempts = Path(event.name)
    if not attempts.is_dir():
        return wait_at_gate(event)
    tempfile.mkstemp(dir=attempts)
    if len(list(attempts.iterdir())) <= lives:
        die()
    return transform_race(event)


def kill_itself_once(event: RaceEvent) -> RaceSnapshot:
    return _die_once(event, lambda: os.kill(os.getpid(), signal.SIGKILL))


def exit_once(event: RaceEvent) -> RaceSnapshot:
    return _die_once(event, lambda: os._exit(7))


def exit_quietly_once(event: RaceEvent) -> RaceSnapshot:
    return _die_once(event, lambda: os._exit(0))


def segfault_once(event: RaceEvent) -> RaceSnapshot:
    return _die_once(event, lambda: ctypes.string_at(0))


def exit_always(event: RaceEvent) -> RaceSnapshot:
    return _die_once(event, lambda: os._exit(7), lives=1_000)


def loop_for_ever(event: RaceEvent) -> RaceSnapshot:
    """Busy in Python for the race named ``loop``; others are calculated."""
    while event.race_id == "loop":
        pass
    return transform_race(event)


def divide_by_zero(event: RaceEvent) -> RaceSnapshot:
    raise ZeroDivisionError(f"{event.race_id} divided")


def run_out_of_memory(event: RaceEvent) -> RaceSnapshot:
    raise MemoryError(event.race_id)


def flush_output(event: RaceEvent) -> RaceSnapshot:
    """As whoever prints a line does."""
    sys.stdout.flush()
    sys.stderr.flush()
    return transform_race(event)


def name_unwanted_modules(event: RaceEvent) -> RaceSnapshot:
    raise LookupError("unwanted: " + " ".join(name for name in UNWANTED if name in sys.modules))


def name_open_sockets(event: RaceEvent) -> RaceSnapshot:
    inodes = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own descriptor is gone by now
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                inodes.append(str(status.st_ino))
    raise LookupError("sockets: " + " ".join(inodes))
