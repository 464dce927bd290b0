"""What a race or a batch comes to."""

import pickle
from datetime import UTC, datetime

import pytest

from raceday_dagster.errors import FetchError, PipelineError, TransformError, WriteError
from raceday_dagster.racing.outcomes import (
    UNKNOWN_RACE,
    BatchOutcome,
    ConnectionUse,
    ItemError,
    ProcessResult,
    RowCounts,
    Timings,
    WorkerUse,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def end_race(race_id: str, status: str, total_ms: int = 100, retryable: bool = False) -> ProcessResult:
    error = None
    if status == "unknown":
        status, error = "skipped", UNKNOWN_RACE
    elif status != "success":
        error = ItemError(stage="fetch", type="FetchError", message="no", retryable=retryable)
    return ProcessResult.model_validate(
        {
            "race_id": race_id,
            "status": status,
            "polled_at": NOW,
            "timings": Timings(fetch_ms=total_ms, total_ms=total_ms),
            "row_counts": RowCounts(entrants=3) if status == "success" else RowCounts(),
            "error": error,
        }
    )


def end_batch(*races: ProcessResult, duration_ms: int = 1_000) -> BatchOutcome:
    return BatchOutcome.of(
        races,
        started_at=NOW,
        batch_duration_ms=duration_ms,
        requested_concurrency=5,
        effective_concurrency=5,
        db_pool=ConnectionUse(max=10, peak=5),
        workers=WorkerUse(total=3, busy_peak=3, queue_depth_peak=2, restarts=0),
    )


def test_every_race_is_in_exactly_one_of_results_and_errors() -> None:
    outcome = end_batch(end_race("a", "success"), end_race("b", "skipped"), end_race("c", "failed"))
    assert [race.race_id for race in outcome.results] == ["a", "b"]
    assert [race.race_id for race in outcome.errors] == ["c"]
    assert (outcome.total_races, outcome.successes, outcome.skipped, outcome.failures) == (3, 1, 1, 1)


def test_an_empty_batch_has_no_slowest_race() -> None:
    outcome = end_batch()
    assert outcome.slowest is None
    assert outcome.max_duration_ms == 0
    assert outcome.row_counts == RowCounts()


def test_rows_of_all_races_are_added_per_table() -> None:
    assert end_batch(end_race("a", "success"), end_race("b", "success")).row_counts == RowCounts(entrants=6)


@pytest.mark.parametrize(
    ("duration_ms", "near", "over"),
    [(11_999, False, False), (12_000, True, False), (14_999, True, False), (15_000, True, True)],
)
def test_the_budget_is_that_of_the_wall_clock(duration_ms: int, near: bool, over: bool) -> None:
    outcome = end_batch(end_race("a", "success", 10), duration_ms=duration_ms)
    assert (outcome.near_budget, outcome.over_budget) == (near, over)


@pytest.mark.parametrize(("total_ms", "over"), [(1_999, False), (2_000, True)])
def test_a_race_of_two_seconds_is_over_its_budget(total_ms: int, over: bool) -> None:
    assert end_race("a", "success", total_ms).over_budget is over


@pytest.mark.parametrize(
    ("kind", "stage"), [(FetchError, "fetch"), (TransformError, "transform"), (WriteError, "write")]
)
def test_a_pipeline_error_survives_a_process_border(kind: type[PipelineError], stage: str) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", race_id="r1", retryable=True)))
    assert type(error) is kind
    assert (str(error), error.race_id, error.retryable, error.stage) == ("it broke", "r1", True, stage)
    verdict = ItemError.of(error)
    assert (verdict.stage, verdict.type, verdict.message, verdict.retryable) == (stage, kind.__name__, "it broke", True)
