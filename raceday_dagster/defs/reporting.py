"""What a race or a batch says of itself: log lines on standard error, and metadata and messages in the UI."""

from datetime import UTC, datetime

import dagster as dg

from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.errors import PipelineError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import RACE_BUDGET_MS, ProcessResult, RaceError, Timings


def fail_race(context: dg.OpExecutionContext, error: PipelineError, timings: Timings) -> ProcessResult:
    """The result of a race whose stage failed, said in the log and in the UI of the step that saw it."""
    verdict = RaceError.of(error)
    get_logger(race_id=error.race_id, run_id=context.run_id).error(
        f"{verdict.stage}_failed", retryable=verdict.retryable, error={"name": verdict.type, "message": verdict.message}
    )
    context.log.error(
        f"Race {error.race_id} failed in {verdict.stage}: {verdict.message} "
        f"({'the next poll may succeed' if verdict.retryable else 'another try would fail as well'})"
    )
    context.add_output_metadata(
        {"race_id": error.race_id, "status": "failed", **_describe(verdict), **timings.model_dump()}
    )
    return ProcessResult(
        race_id=error.race_id, status="failed", polled_at=datetime.now(UTC), timings=timings, error=verdict
    )


def skip_race(context: dg.OpExecutionContext, race_id: str, reason: RaceError, timings: Timings) -> ProcessResult:
    """The result of a race there is nothing to write for: unknown to the API, or older than what is stored."""
    event = "fetch_null" if reason.stage == "fetch" else "write_stale"
    get_logger(race_id=race_id, run_id=context.run_id).warning(event, reason=reason.message)
    context.log.warning(f"Race {race_id} skipped: {reason.message}")
    context.add_output_metadata({"race_id": race_id, "status": "skipped", **_describe(reason), **timings.model_dump()})
    return ProcessResult(race_id=race_id, status="skipped", polled_at=datetime.now(UTC), timings=timings, error=reason)


def end_race(context: dg.OpExecutionContext, result: ProcessResult, board: ProgressBoard) -> None:
    """The last lines of a race, and where its batch stands then."""
    log = get_logger(race_id=result.race_id, run_id=context.run_id)
    timings = result.timings.model_dump()
    log.info(
        "pipeline_complete",
        status=result.status,
        timings=timings,
        row_counts=result.row_counts.model_dump(),
        over_budget=result.over_budget,
    )
    if result.over_budget:
        log.warning("pipeline_over_budget", total_ms=result.timings.total_ms, target_ms=RACE_BUDGET_MS)
        context.log.warning(f"Race {result.race_id} took {result.timings.total_ms} ms, target {RACE_BUDGET_MS} ms")
    if result.status == "failed" and result.error:
        log.error("batch_race_failed", stage=result.error.stage, retryable=result.error.retryable, timings=timings)
    else:
        log.info("batch_race_complete", status=result.status, timings=timings)
    batch_log = get_logger(run_id=context.run_id)
    board.end_race(result.status, lambda progress: batch_log.info("batch_progress", **progress.model_dump()))


def _describe(verdict: RaceError) -> dict[str, str | bool]:
    return {
        "error_stage": verdict.stage,
        "error_type": verdict.type,
        "error_message": verdict.message,
        "retryable": verdict.retryable,
    }
