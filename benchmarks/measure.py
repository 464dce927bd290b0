"""Whether the memory of a process grows without end."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

NOT_OURS = {"DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "NZTAB_API_URL"}
"""Variables that a benchmark must not inherit: each has a sandbox of its own."""
GROWTH_MB_H = 20.0
"""Megabytes an hour from which on memory grows: half a gigabyte a day."""


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
