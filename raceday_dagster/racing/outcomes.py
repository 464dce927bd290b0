"""What a race or a batch came to. Values only: no clock, no log, no database.

A race ends in exactly one ``ProcessResult``; a batch of races in one ``BatchOutcome`` that keeps the results
(success, skipped) and the typed errors apart. Durations are integer milliseconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Self

from raceday_dagster.errors import PipelineError, Stage
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot

Status = Literal["success", "skipped", "failed"]

RACE_BUDGET_MS = 2_000
BATCH_BUDGET_MS = 15_000


class Timings(Record):
    """Milliseconds of each stage; 0 for a stage that was not reached. ``total_ms`` runs from the first to the last."""

    fetch_ms: int = 0
    transform_ms: int = 0
    write_ms: int = 0
    total_ms: int = 0


class RowCounts(Record):
    """Rows really inserted or changed, per table."""

    meetings: int = 0
    races: int = 0
    entrants: int = 0
    race_pools: int = 0
    money_flow_history: int = 0
    odds_history: int = 0
    race_results: int = 0

    def __add__(self, other: RowCounts) -> RowCounts:
        mine, theirs = self.model_dump(), other.model_dump()
        return RowCounts(**{table: mine[table] + theirs[table] for table in mine})

    @property
    def total(self) -> int:
        """All rows together."""
        return sum(self.model_dump().values())


class RaceError(Record):
    """Why a race failed or was skipped: the stage, the error's class name, one line, and the verdict."""

    stage: Stage
    type: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: PipelineError) -> Self:
        """The value of a raised error."""
        return cls(stage=error.stage, type=type(error).__name__, message=error.message, retryable=error.retryable)


class ProcessResult(Record):
    """What one poll of one race came to."""

    race_id: str
    status: Status
    polled_at: datetime
    """When the answer arrived, or when the stage that failed gave up."""
    timings: Timings = Timings()
    row_counts: RowCounts = RowCounts()
    quality_score: int | None = None
    error: RaceError | None = None

    @property
    def success(self) -> bool:
        """Fetched, transformed and committed."""
        return self.status == "success"

    @property
    def over_budget(self) -> bool:
        """The race took two seconds or more."""
        return self.timings.total_ms >= RACE_BUDGET_MS


class RaceInProgress(Record):
    """A race between two stages: when it began and what the stages before took."""

    race_id: str
    started_s: float
    """Reading of ``time.monotonic`` when the first stage began."""
    ends_s: float
    """Reading of ``time.monotonic`` at which the race must have ended."""
    polled_at: datetime
    timings: Timings


class FetchedRace(RaceInProgress):
    """A race on its way to the transform."""

    event: RaceEvent


class TransformedRace(RaceInProgress):
    """A race on its way to the database."""

    snapshot: RaceSnapshot


class ConnectionUse(Record):
    """Connections of the connection pool: its ceiling, the most out at once, and the most who waited for one."""

    max: int
    peak: int
    waiting_peak: int = 0


class WorkerUse(Record):
    """Transform workers: how many, the most busy and the longest queue at once, and restarts after a crash."""

    total: int
    busy_peak: int
    queue_depth_peak: int
    restarts: int


class BatchProgress(Record):
    """Where a running batch stands.

    ``completed == successful + skipped + failed`` and ``completed + processing + pending == total``.
    """

    total: int
    completed: int
    successful: int
    skipped: int
    failed: int
    processing: int
    pending: int
    eta_ms: int
    """Estimated time left: the mean time of a completed race times the races that are not."""


class BatchOutcome(Record):
    """What a batch came to. Every requested race is in exactly one of ``results`` and ``errors``."""

    started_at: datetime
    results: tuple[ProcessResult, ...]
    errors: tuple[ProcessResult, ...]
    batch_duration_ms: int
    budget_ms: int = BATCH_BUDGET_MS
    requested_concurrency: int
    effective_concurrency: int
    db_pool: ConnectionUse
    workers: WorkerUse

    @classmethod
    def of(cls, ended: Iterable[ProcessResult], **measured: object) -> Self:
        """Sorts ended races into results and errors; ``measured`` are the remaining fields."""
        races = tuple(ended)
        return cls.model_validate(
            {
                "results": tuple(race for race in races if race.status != "failed"),
                "errors": tuple(race for race in races if race.status == "failed"),
                **measured,
            }
        )

    @property
    def races(self) -> Sequence[ProcessResult]:
        """All races of the batch, the failed ones last."""
        return (*self.results, *self.errors)

    @property
    def total_races(self) -> int:
        """Races asked for, each once."""
        return len(self.races)

    @property
    def successes(self) -> int:
        """Races committed."""
        return sum(race.success for race in self.results)

    @property
    def skipped(self) -> int:
        """Races the API does not know, or whose answer was older than what is stored."""
        return len(self.results) - self.successes

    @property
    def failures(self) -> int:
        """Races that ended in an error."""
        return len(self.errors)

    @property
    def retryable_failures(self) -> int:
        """Failures for which the next poll may well succeed."""
        return sum(race.error is not None and race.error.retryable for race in self.errors)

    @property
    def slowest(self) -> ProcessResult | None:
        """The race with the largest ``total_ms``, failed ones included."""
        return max(self.races, key=lambda race: race.timings.total_ms, default=None)

    @property
    def max_duration_ms(self) -> int:
        """``total_ms`` of the slowest race; 0 for an empty batch."""
        return self.slowest.timings.total_ms if self.slowest else 0

    @property
    def over_budget(self) -> bool:
        """The batch took its whole budget or more by the wall clock."""
        return self.batch_duration_ms >= self.budget_ms

    @property
    def near_budget(self) -> bool:
        """The batch took 80 % of its budget or more: the moment to look, before it is too late."""
        return self.batch_duration_ms >= 0.8 * self.budget_ms

    @property
    def row_counts(self) -> RowCounts:
        """Rows inserted or changed by the whole batch."""
        return sum((race.row_counts for race in self.races), RowCounts())
