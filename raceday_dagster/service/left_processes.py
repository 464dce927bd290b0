"""Processes that a dead code server left: its fork server, and the runs that were forked from that. Linux only.

A run of a code server that died goes on, and one that hangs would go on for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
FORKED = (b"multiprocessing.forkserver", b"raceday_dagster.run_preload")
"""What the command line of our fork server says, and that of every run, which is a fork of it."""


def find_left_processes(home: Path, *, proc: Path = PROC) -> list[int]:
    """Those of the service in ``home``: a code server begins a session, in which its runs stay, and it is gone."""
    if not proc.is_dir():
        return []
    numbers = (int(folder.name) for folder in proc.iterdir() if folder.name.isdecimal())
    return [pid for pid in numbers if _is_left(proc, pid, b"RACEDAY_HOME=" + os.fsencode(home))]


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
        session = _read_session(proc, pid)
        is_of_home = home in (proc / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended meanwhile, or is somebody else's
    return is_of_home and session is not None and _read_session(proc, session) is None


def _read_session(proc: Path, pid: int) -> int | None:
    """The number of its session, which is that of the process that began it; ``None`` if it does not live."""
    try:
        # After the name, which may hold anything: state, parent, group, session.
        stat = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2]
        state, _parent, _group, session = stat.split()[:4]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(session)
