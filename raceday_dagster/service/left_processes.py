"""Processes that a dead code server left: its fork server, and the runs that were forked from that. Linux only.

A run of a code server that died goes on, and one that hangs would go on for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from raceday_dagster.service.process_stat import PROC, list_pids, read_process

FORKED = (b"multiprocessing.forkserver", b"raceday_dagster.dagster_plugins.run_preload")
"""What the command line of our fork server says, and that of every run, which is a fork of it."""


def find_left_processes(home: Path, *, proc: Path = PROC) -> list[int]:
    """Those of the service in ``home``: a code server begins a session, in which its runs stay, and it is gone."""
    return [pid for pid in list_pids(proc=proc) if _is_left(proc, pid, b"RACEDAY_HOME=" + os.fsencode(home))]


def kill(pids: Iterable[int]) -> None:
    """End them at once."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_left(proc: Path, pid: int, home: bytes) -> bool:
    try:
        command = (proc / str(pid) / "cmdline").read_bytes()
        if not all(part in command for part in FORKED):
            return False
        found = read_process(pid, proc=proc)
        is_of_home = home in (proc / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended meanwhile, or is somebody else's
    return is_of_home and found is not None and read_process(found.session, proc=proc) is None
