"""The figures of a benchmark: how measured times are spread, and whether they keep within their targets.

Values only: nothing here measures, reads or writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from raceday_dagster.racing.outcomes import BATCH_BUDGET_MS, RACE_BUDGET_MS, UNKNOWN_RACE, WRITE_BUDGET_MS, Status
from raceday_dagster.racing.records import Record

STAGES = ("total_ms", "fetch_ms", "transform_ms", "write_ms")
"""What is measured of a race."""
BATCH = "batch_ms"
"""What is measured of a batch: from its start to its end by the wall clock."""


class RaceRun(Record):
    """One poll of one race; the fields are the columns of the CSV."""

    iteration: int
    race_id: str
    status: Status
    success: bool
    total_ms: int
    fetch_ms: int
    transform_ms: int
    write_ms: int
    error_type: str | None = None
    error_message: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it failed, or the API does not know its race. An answer that was no news is no failure."""
        return self.status == "failed" or self.error_type == UNKNOWN_RACE.type


class Spread(Record):
    """How times are spread, in milliseconds; a percentile is the nearest rank, one of the times themselves."""

    samples: int
    min: float
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Spread | None:
        """The spread of some times, to two decimals; ``None`` without any."""
        if not times_ms:
            return None
        return cls(
            samples=len(times_ms),
            min=round(min(times_ms), 2),
            mean=round(math.fsum(times_ms) / len(times_ms), 2),
            p50=round(find_percentile(times_ms, 0.5), 2),
            p95=round(find_percentile(times_ms, 0.95), 2),
            p99=round(find_percentile(times_ms, 0.99), 2),
            max=round(max(times_ms), 2),
        )


class Targets(Record):
    """Milliseconds that the 95th percentile must stay under. Those of a batch are meant for five races."""

    race_ms: float = Field(default=RACE_BUDGET_MS, gt=0)
    batch_ms: float = Field(default=BATCH_BUDGET_MS, gt=0)
    fetch_ms: float = Field(default=500, gt=0)
    transform_ms: float = Field(default=1_000, gt=0)
    write_ms: float = Field(default=WRITE_BUDGET_MS, gt=0)


class Threshold(Record):
    """Whether one target was kept. Nothing observed is nothing kept."""

    name: str
    observed: float | None
    limit: float
    passed: bool


def find_percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan


def summarise(runs: Iterable[RaceRun], batches_ms: Sequence[float]) -> dict[str, Spread | None]:
    """The spread of each stage over the polls that succeeded, and of the batches."""
    succeeded = [run for run in runs if run.success]
    stages = {stage: Spread.of([getattr(run, stage) for run in succeeded]) for stage in STAGES}
    return {**stages, BATCH: Spread.of(batches_ms)}


def check_targets(summary: Mapping[str, Spread | None], targets: Targets) -> tuple[Threshold, ...]:
    """Each target beside what was observed."""
    limits = {
        "total_ms": targets.race_ms,
        BATCH: targets.batch_ms,
        "fetch_ms": targets.fetch_ms,
        "transform_ms": targets.transform_ms,
        "write_ms": targets.write_ms,
    }
    return tuple(_check(name, summary[name], limit) for name, limit in limits.items())


def _check(name: str, spread: Spread | None, limit: float) -> Threshold:
    observed = spread.p95 if spread else None
    return Threshold(
        name=f"{name}.p95", observed=observed, limit=limit, passed=observed is not None and observed < limit
    )


def compare_medians(batches_ms: Mapping[str, Sequence[float]], floor: str) -> dict[str, float]:
    """The median batch of each contender against that of ``floor``; empty where ``floor`` has none."""
    if not batches_ms.get(floor):
        return {}
    floor_ms = find_percentile(batches_ms[floor], 0.5)
    return {name: round(find_percentile(times, 0.5) / floor_ms, 3) for name, times in batches_ms.items() if times}
