"""The figures of a benchmark: how measured times are spread, and whether they keep within their targets.

Values only: nothing here measures, reads or writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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
    def of(cls, times_ms: Sequence[float]) -> Spread:
        """The spread of at least one time, to two decimals."""
        p50, p95, p99 = (find_percentile(times_ms, share) for share in (0.5, 0.95, 0.99))
        mean = math.fsum(times_ms) / len(times_ms)
        figures = {"min": min(times_ms), "mean": mean, "p50": p50, "p95": p95, "p99": p99, "max": max(times_ms)}
        return cls(samples=len(times_ms), **{name: round(figure, 2) for name, figure in figures.items()})


class Targets(Record):
    """Milliseconds that the 95th percentile must stay under. Those of a batch are meant for five races."""

    race_ms: float = RACE_BUDGET_MS
    batch_ms: float = BATCH_BUDGET_MS
    fetch_ms: float = 500
    transform_ms: float = 1_000
    write_ms: float = WRITE_BUDGET_MS


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
    """The spread of each stage over the polls that succeeded, and of the batches; ``None`` where there are none."""
    succeeded = [run for run in runs if run.success]
    times = {stage: [getattr(run, stage) for run in succeeded] for stage in STAGES}
    return {name: Spread.of(taken) if taken else None for name, taken in {**times, BATCH: batches_ms}.items()}


def check_targets(summary: Mapping[str, Spread | None], targets: Targets) -> tuple[Threshold, ...]:
    """Each target beside what was observed."""
    limits = {
        "total_ms": targets.race_ms,
        BATCH: targets.batch_ms,
        "fetch_ms": targets.fetch_ms,
        "transform_ms": targets.transform_ms,
        "write_ms": targets.write_ms,
    }
    checks = []
    for name, limit in limits.items():
        spread = summary[name]
        p95 = spread.p95 if spread else None
        kept = p95 is not None and p95 < limit
        checks.append(Threshold(name=f"{name}.p95", observed=p95, limit=limit, passed=kept))
    return tuple(checks)
