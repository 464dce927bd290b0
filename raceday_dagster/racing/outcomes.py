"""What an item of a batch or a whole batch came to. Values only: no clock, no log, no database.

The first half is the same for every batch, of races or of images: ``ItemError``, ``ItemResult``, ``BatchProgress`` and
``BatchResults``, which keeps the results (success, skipped) and the errors apart. The second half is what races add: a
race ends in exactly one ``ProcessResult``, a batch of races in one ``BatchOutcome``. Durations are integer milliseconds
of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Generic, Literal, Self, TypeVar

from raceday_dagster.errors import StageError
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot

Status = Literal["success", "skipped", "failed"]

WRITE_BUDGET_MS = 300
RACE_BUDGET_MS = 2_000
BATCH_BUDGET_MS = 15_000


class ItemError(Record):
    """Why an item failed or was skipped: the stage, the error's class name, one line, and the verdict."""

    stage: str
    type: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: StageError) -> Self:
        """The value of a raised error."""
        return cls(stage=error.stage, type=type(error).__name__, message=error.message, retryable=error.retryable)


class ItemResult(Record):
    """What one item of a batch came to."""

    status: Status
    error: ItemError | None = None

    @property
    def success(self) -> bool:
        """Every stage was passed."""
        return self.status == "success"

    @property
    def total_ms(self) -> int:
        """Milliseconds from the first stage to the last."""
        raise NotImplementedError


ResultT = TypeVar("ResultT", bound=ItemResult)


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
    """Estimated time left: the mean time of a completed item times the items that are not, over the items at work."""
    current: str = ""
    """The item that has just ended."""

    @classmethod
    def of(cls, ended: Mapping[Status, int], *, total: int, processing: int, items_ms: int, current: str = "") -> Self:
        """Where a batch stands when ``current`` has just ended and ``processing`` others are still at work.

        ``ended``: how many ended in which way; ``items_ms``: the time they took together.
        """
        completed = sum(ended.values())
        left = total - completed
        at_work = min(processing + 1, left)  # the place that has just become free is taken at once
        return cls(
            total=total,
            completed=completed,
            successful=ended.get("success", 0),
            skipped=ended.get("skipped", 0),
            failed=ended.get("failed", 0),
            processing=processing,
            pending=left - processing,
            eta_ms=round(items_ms / completed * left / at_work) if completed and at_work else 0,
            current=current,
        )


class BatchResults(Record, Generic[ResultT]):
    """The items of a batch, every one of them in exactly one of ``results`` and ``errors``."""

    started_at: datetime
    results: tuple[ResultT, ...]
    errors: tuple[ResultT, ...]
    batch_duration_ms: int
    requested_concurrency: int
    effective_concurrency: int

    @classmethod
    def of(cls, ended: Iterable[ResultT], **measured: object) -> Self:
        """Sorts ended items into results and errors; ``measured`` are the remaining fields."""
        items = tuple(ended)
        return cls.model_validate(
            {
                "results": tuple(item for item in items if item.status != "failed"),
                "errors": tuple(item for item in items if item.status == "failed"),
                **measured,
            }
        )

    @property
    def items(self) -> tuple[ResultT, ...]:
        """All items of the batch, the failed ones last."""
        return (*self.results, *self.errors)

    @property
    def successes(self) -> int:
        """Items that passed every stage."""
        return sum(item.success for item in self.results)

    @property
    def skipped(self) -> int:
        """Items for which there was nothing to do."""
        return len(self.results) - self.successes

    @property
    def failures(self) -> int:
        """Items that ended in an error."""
        return len(self.errors)

    @property
    def retryable_failures(self) -> int:
        """Failures for which the next try may well succeed."""
        return sum(item.error is not None and item.error.retryable for item in self.errors)

    @property
    def has_answer(self) -> bool:
        """Unless no item succeeded and one failed. A batch of which nothing had to be done counts as answered."""
        return self.successes > 0 or not self.failures

    @property
    def slowest(self) -> ResultT | None:
        """The item with the largest ``total_ms``, failed ones included."""
        return max(self.items, key=lambda item: item.total_ms, default=None)

    @property
    def max_duration_ms(self) -> int:
        """``total_ms`` of the slowest item; 0 for an empty batch."""
        return self.slowest.total_ms if self.slowest else 0


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


UNKNOWN_RACE = ItemError(stage="fetch", type="UnknownRace", message="the API does not know this race", retryable=False)


class RaceFacts(Record):
    """What is known of a race besides its id."""

    title: str
    """Meeting and race number, for people."""
    start_time: datetime
    status: str


class ProcessResult(ItemResult):
    """What one poll of one race came to."""

    race_id: str
    polled_at: datetime
    """When the answer arrived, or when the stage that failed gave up."""
    timings: Timings = Timings()
    row_counts: RowCounts = RowCounts()
    quality_score: int | None = None
    race: RaceFacts | None = None
    """``None`` where no answer came: then only the database may know the race."""

    @property
    def title(self) -> str:
        """Meeting and race number where they are known; empty otherwise."""
        return self.race.title if self.race else ""

    @property
    def total_ms(self) -> int:
        """Milliseconds from the first stage to the last."""
        return self.timings.total_ms

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
    race: RaceFacts


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
    opened: int = 0
    """Connections open at the end."""


class WorkerUse(Record):
    """Transform workers: how many, the most busy and the longest queue at once, and restarts after a crash."""

    total: int
    busy_peak: int
    queue_depth_peak: int
    restarts: int


class BatchOutcome(BatchResults[ProcessResult]):
    """What a batch of races came to: a success is committed, a skipped one unknown to the API or not newer."""

    budget_ms: int = BATCH_BUDGET_MS
    db_pool: ConnectionUse
    workers: WorkerUse

    @property
    def races(self) -> tuple[ProcessResult, ...]:
        """All races of the batch, the failed ones last."""
        return self.items

    @property
    def total_races(self) -> int:
        """Races asked for, each once."""
        return len(self.races)

    @property
    def has_answer(self) -> bool:
        """Unless no race succeeded, and one failed or is not known to the API: then nothing is followed any more. A
        batch whose answers are stored already, or that is empty, counts as answered."""
        lost = self.failures or any(race.error == UNKNOWN_RACE for race in self.results)
        return self.successes > 0 or not lost

    @property
    def over_budget(self) -> bool:
        """The batch took its whole budget or more by the wall clock."""
        return self.batch_duration_ms >= self.budget_ms

    @property
    def near_budget(self) -> bool:
        """The batch took 80 % of its budget or more: the moment to look, before it is too late."""
        return self.batch_duration_ms >= 0.8 * self.budget_ms

    @property
    def write_share_percent(self) -> int:
        """The part of the races' time that their writes took. The statements of a write run one after the other; when
        they take more than 20 % for long, that decision is to be made again."""
        whole_ms = sum(race.timings.total_ms for race in self.races)
        return round(100 * sum(race.timings.write_ms for race in self.races) / whole_ms) if whole_ms else 0

    @property
    def row_counts(self) -> RowCounts:
        """Rows inserted or changed by the whole batch."""
        return sum((race.row_counts for race in self.races), RowCounts())
