"""The server process: finding it by ``postmaster.pid``, waiting for it, ending it, clearing what a dead one left.

A pid alone proves nothing: after a crash or a reboot it may belong to anybody. A process counts as the server only if
it lives and its command line is a ``postgres -D`` on this very folder; whatever fails that test is never signalled.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raceday_dagster.errors import SandboxError

PID_FILE = "postmaster.pid"

STOP_WITHIN_S = 15.0
_IMMEDIATE_STOP_WAIT_S = 5
_POLL_S = 0.02

# The largest pid_t: above what any kernel hands out.
_NOBODYS_PID = 2**31 - 1


@dataclass(frozen=True)
class Postmaster:
    """A living server of a data folder, as its ``postmaster.pid`` describes it."""

    pid: int
    socket_dir: Path | None
    status: str  # starting, ready, stopping, standby; empty before the first of them is written


def find_postmaster(data_dir: Path) -> Postmaster | None:
    """The living server of a data folder, or None when there is none, whatever ``postmaster.pid`` says."""
    lines = _read_pid_file(data_dir)
    pid = _parse_pid(lines)
    if pid is None or not is_postmaster(pid, data_dir):
        return None
    socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else None
    return Postmaster(pid, socket_dir, lines[7].strip() if len(lines) > 7 else "")


def is_postmaster(pid: int, data_dir: Path) -> bool:
    """Whether the pid is a living postgres on this folder; a zombie has no command line, so it is not."""
    if not Path("/proc/self/cmdline").exists():
        raise SandboxError("the embedded PostgreSQL needs Linux's /proc: set DATABASE_URL to a server of yours")
    try:
        arguments = [os.fsdecode(part) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return False
    if Path(arguments[0]).name != "postgres" or "-D" not in arguments[:-1]:
        return False
    return Path(arguments[arguments.index("-D") + 1]).resolve() == data_dir.resolve()


def clear_stale_files(data_dir: Path, socket_dir: Path) -> None:
    """Undo the claims that a dead server left behind; only to be called when ``find_postmaster`` found none.

    ``postmaster.pid`` keeps its place with a pid that nobody has, because postgres also reads the shared memory's id
    from it, and so refuses to start while processes of the dead server still write to the data. A file too damaged for
    that is removed.
    """
    lines = _read_pid_file(data_dir)
    if _parse_pid(lines) is None:
        (data_dir / PID_FILE).unlink(missing_ok=True)
    else:
        text = "\n".join([str(_NOBODYS_PID), *lines[1:]]) + "\n"
        descriptor = os.open(data_dir / PID_FILE, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    for left in socket_dir.glob(".s.PGSQL.*"):
        left.unlink(missing_ok=True)


def wait_until_ready(data_dir: Path, wait_s: float) -> bool:
    """Wait for a living server to take connections; False if it ended instead, or takes longer."""

    def has_ended_or_is_ready() -> bool:
        running = find_postmaster(data_dir)
        return running is None or running.status == "ready"

    return wait_for(has_ended_or_is_ready, wait_s) and find_postmaster(data_dir) is not None


def end_postmaster(data_dir: Path, within_s: float = STOP_WITHIN_S) -> None:
    """End the server of a data folder, if there is one: a fast shutdown, after ``within_s`` an immediate one.

    Raises:
        SandboxError: It outlived both.
    """
    running = find_postmaster(data_dir)
    if running is None:
        return
    for how, wait_s in ((signal.SIGINT, within_s), (signal.SIGQUIT, _IMMEDIATE_STOP_WAIT_S)):
        if is_postmaster(running.pid, data_dir):
            os.kill(running.pid, how)
        if wait_for(lambda: not is_postmaster(running.pid, data_dir), wait_s):
            return
    raise SandboxError(f"PostgreSQL (pid {running.pid}) does not end: look at its log and end it by hand")


def wait_for(is_true: Callable[[], bool], wait_s: float) -> bool:
    """Ask again and again until the answer is yes; False after ``wait_s`` seconds of no."""
    give_up_at = time.monotonic() + wait_s
    while not is_true():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def _read_pid_file(data_dir: Path) -> list[str]:
    try:
        return (data_dir / PID_FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _parse_pid(lines: list[str]) -> int | None:
    try:
        pid = int(lines[0])
    except (IndexError, ValueError):
        return None
    return pid if pid > 0 else None
