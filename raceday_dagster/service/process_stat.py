"""What Linux says of a process in ``/proc``: the one reader of it in this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessStat:
    """A process that lives."""

    pid: int
    group: int
    session: int
    """The number of the process that began it."""
    start_ticks: int
    """Since the machine started, in ticks of the kernel (``SC_CLK_TCK`` a second)."""


def read_process(pid: int, *, proc: Path = PROC) -> ProcessStat | None:
    """A process, or ``None`` when there is none; a zombie, which somebody has yet to bury, is none."""
    try:
        # After the name, which may hold anything: state, parent, group, session, and the start as the twentieth.
        state, *fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        _parent, group, session = map(int, fields[:3])
        start_ticks = int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
    return None if state in "ZX" else ProcessStat(pid, group, session, start_ticks)


def list_pids(*, proc: Path = PROC) -> list[int]:
    """Every process there is; empty where the system has no ``/proc``."""
    return [int(folder.name) for folder in proc.iterdir() if folder.name.isdecimal()] if proc.is_dir() else []
