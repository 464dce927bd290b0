"""CPU-seconds and memory of a process and everything it started, and whether memory grows without end."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import psutil

SAMPLE_S = 0.02
NOT_OURS = {"DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "NZTAB_API_URL"}
"""Variables that a benchmark must not inherit: each has a sandbox of its own."""
GROWTH_MB_H = 20.0
"""Megabytes an hour from which on memory grows: half a gigabyte a day."""


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


@dataclass(frozen=True)
class MemorySample:
    """What a process took at an instant of a monotonic clock."""

    at_s: float
    mb: float


def find_growth_mb_h(samples: Sequence[MemorySample]) -> float | None:
    """Megabytes an hour by which a process grows without bound, ``None`` for one that does not.

    Its first third does not count: caches and pools fill. Afterwards it grows if half of its last third is above all of
    the middle one, and if the slope of both is ``GROWTH_MB_H`` or more.
    """
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    if third < 3 or median(sample.mb for sample in last) <= max(sample.mb for sample in middle):
        return None
    both = samples[third:]
    slope = linear_regression([sample.at_s for sample in both], [sample.mb for sample in both]).slope * 3_600
    return slope if slope >= GROWTH_MB_H else None
