"""A batch's outcome for people and machines: metadata with a table, one JSON line, and the warnings."""

from typing import Any

import dagster as dg

from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import BatchOutcome, ProcessResult
from raceday_dagster.store.engine import describe_utilisation

SHOWN_RACES = 50
"""Rows of the table in the UI; the table race_polls has them all."""


def build_summary_metadata(outcome: BatchOutcome) -> dict[str, Any]:
    """The figures of a batch and its races as a Markdown table, slowest first."""
    return {
        **_count(outcome),
        "over_budget": outcome.over_budget,
        "requested_concurrency": outcome.requested_concurrency,
        "effective_concurrency": outcome.effective_concurrency,
        "pool_max": outcome.db_pool.max,
        "pool_peak": outcome.db_pool.peak,
        "worker_restarts": outcome.workers.restarts,
        "rows_written": outcome.row_counts.total,
        "races": dg.MetadataValue.md(build_table(outcome)),
    }


def build_table(outcome: BatchOutcome) -> str:
    """A Markdown table of the batch's races: failed ones first, then the slowest."""
    head = "| race | status | fetch ms | transform ms | write ms | total ms | rows | quality | note |\n"
    rule = "|---|---|--:|--:|--:|--:|--:|--:|---|\n"
    races = sorted(outcome.races, key=lambda race: (race.status != "failed", -race.timings.total_ms))
    rows = "".join(_build_row(race) for race in races[:SHOWN_RACES])
    more = len(races) - SHOWN_RACES
    return head + rule + rows + (f"\n… and {more} more in the table `race_polls`\n" if more > 0 else "")


def log_summary(run_id: str, outcome: BatchOutcome) -> None:
    """The batch as one line."""
    get_logger(run_id=run_id).info(
        "batch_complete",
        **_count(outcome),
        over_budget=outcome.over_budget,
        requested_concurrency=outcome.requested_concurrency,
        effective_concurrency=outcome.effective_concurrency,
        row_counts=outcome.row_counts.model_dump(),
        db_pool=outcome.db_pool.model_dump(),
        workers=outcome.workers.model_dump(),
        failed=[{"race_id": race.race_id, **race.error.model_dump()} for race in outcome.errors if race.error],
    )


def warn_of_budgets(context: dg.OpExecutionContext, outcome: BatchOutcome) -> None:
    """Says so when the batch came near or over its time, or near the end of the pool."""
    log = get_logger(run_id=context.run_id)
    if outcome.near_budget:
        say, ui = (log.error, context.log.error) if outcome.over_budget else (log.warning, context.log.warning)
        say("batch_sla_warning", batch_duration_ms=outcome.batch_duration_ms, target_ms=outcome.budget_ms)
        ui(f"The batch took {outcome.batch_duration_ms} ms, target {outcome.budget_ms} ms")
    pool = outcome.db_pool
    if log_pool_use(context.run_id, pool.peak, pool.max, pool.waiting_peak) != "info":
        context.log.warning(f"{pool.peak} of {pool.max} database connections were in use at once")


def log_pool_use(run_id: str, in_use: int, maximum: int, waiting: int = 0) -> str:
    """How full the pool is, or was at its fullest, as one line; returns the level it was said at."""
    use = describe_utilisation(in_use, maximum, waiting)
    log = get_logger(run_id=run_id)
    say = {"info": log.info, "warning": log.warning, "error": log.error}[use.level]
    say("db_pool_utilization", **use.model_dump(exclude={"level"}))
    return use.level


def _count(outcome: BatchOutcome) -> dict[str, int | str]:
    return {
        "total_races": outcome.total_races,
        "successes": outcome.successes,
        "skipped": outcome.skipped,
        "failures": outcome.failures,
        "retryable_failures": outcome.retryable_failures,
        "max_duration_ms": outcome.max_duration_ms,
        "batch_duration_ms": outcome.batch_duration_ms,
        "slowest_race": outcome.slowest.race_id if outcome.slowest else "",
    }


def _build_row(race: ProcessResult) -> str:
    timings = race.timings
    quality = "" if race.quality_score is None else str(race.quality_score)
    note = f"{race.error.stage}: {race.error.message}" if race.error else ""
    cells = (
        *(race.race_id, race.status, timings.fetch_ms, timings.transform_ms, timings.write_ms, timings.total_ms),
        *(race.row_counts.total, quality, note),
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"
