"""Calculations for the tests of real worker processes, which import them by name and are steered by the race's name.

That name is the path of a named pipe, which holds the worker until the test opens it, or of a folder, in which a worker
that is to die leaves a file.
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
    """Blocks until the pipe is opened for writing."""
    Path(event.name).read_bytes()
    return transform_race(event)


def _die_once(event: RaceEvent, die: Callable[[], object]) -> RaceSnapshot:
    attempts = Path(event.name)
    if not attempts.is_dir():
        return wait_at_gate(event)
    tempfile.mkstemp(dir=attempts)
    if len(list(attempts.iterdir())) == 1:
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


def never_end(event: RaceEvent) -> RaceSnapshot:
    """Is busy for ever with the race ``loop``, and stands still in the race ``stop``; others are calculated."""
    if event.race_id == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while event.race_id == "loop":
        pass
    return transform_race(event)


def name_what_it_has(event: RaceEvent) -> RaceSnapshot:
    """Fails with the unwanted modules and the sockets of its process."""
    modules = [name for name in UNWANTED if name in sys.modules]
    sockets = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own descriptor is gone by now
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                sockets.append(status.st_ino)
    raise LookupError(f"modules {modules} sockets {sockets}")
