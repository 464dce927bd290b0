"""CPU-seconds and memory of a process and everything it started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raceday_dagster.errors import BenchError

try:
    import psutil
except ModuleNotFoundError as error:
    raise BenchError("measuring needs the extra `sandbox`: pip install 'raceday-dagster[sandbox]'") from error

SAMPLE_S = 0.02


def read_cpu_s(root: psutil.Process, besides: int | None = None) -> float:
    """CPU-seconds of a process, of its living descendants and of all the children they have waited for; without those
    of the descendant whose pid is ``besides``."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        if process.pid == besides:
            continue
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def read_own_cpu_s(besides: int | None = None) -> float:
    """The same of this process."""
    return read_cpu_s(psutil.Process(), besides)


def read_memory_mb(root: psutil.Process, kind: str = "Pss") -> float:
    """Proportional set size of a process and its descendants: shared pages count once, divided among the sharers.

    Args:
        kind: ``Pss_Anon`` leaves out files and shared memory, such as PostgreSQL's cache, which fills and then stays.
    """
    total_kb = 0
    for process in (root, *root.children(recursive=True)):
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total_kb += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{kind}:"))
    return total_kb / 1024


class Peak:
    """The largest sample so far."""

    mb = 0.0


@contextmanager
def watching_memory(pid: int) -> Iterator[Peak]:
    """Samples the memory of a process tree in the background."""
    peak, stop, root = Peak(), threading.Event(), psutil.Process(pid)

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            try:
                peak.mb = max(peak.mb, read_memory_mb(root))
            except psutil.NoSuchProcess:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
