"""What a race or a batch says of itself: log lines on standard error, and metadata and messages in the UI.

Must not decide anything: what a race or a batch came to is in the values of ``racing.outcomes``.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import dagster as dg

from raceday_dagster.errors import PipelineError, TransformError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.cadence import LAST_MINUTES, LOOK_BACK, is_without_answer
from raceday_dagster.racing.events import TERMINAL_STATUSES
from raceday_dagster.racing.outcomes import (
    RACE_BUDGET_MS,
    WRITE_BUDGET_MS,
    BatchOutcome,
    BatchProgress,
    BatchResults,
    ItemError,
    ItemResult,
    ProcessResult,
    RaceFacts,
    Status,
    Timings,
)
from raceday_dagster.store.ledger import RecoveredRace
from raceday_dagster.store.queries import FollowedRace

ItemT = TypeVar("ItemT")

SHOWN_ITEMS = 50
"""Rows of a table in the UI; those of the database have them all."""
FAILED_TAG = "raceday/failed"
FAILED_RACES_TAG = "raceday/failed_races"
LONGEST_TAG = 250


class ProgressBoard:
    """Counts the races or images of one run; safe to call from several steps at once.

    Where ``begin`` was not called (steps in processes of their own), nothing is reported: there is no total to measure
    against.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0
        self._processing = 0
        self._items_ms = 0
        self._ended: Counter[Status] = Counter()

    def begin(self, total: int) -> None:
        """The batch has ``total`` items and begins now."""
        self._total = total

    def start_item(self) -> None:
        """One more item is in flight."""
        with self._lock:
            self._processing += 1

    def end_item(self, item: ItemResult, name: str, report: Callable[[BatchProgress], None]) -> None:
        """One item has ended; reports where the batch stands now, one item after the other."""
        with self._lock:
            self._processing -= 1
            self._ended[item.status] += 1
            self._items_ms += item.total_ms
            if self._total:
                report(
                    BatchProgress.of(
                        self._ended,
                        total=self._total,
                        processing=self._processing,
                        items_ms=self._items_ms,
                        current=name,
                    )
                )


def fail_race(
    context: dg.OpExecutionContext, error: PipelineError, timings: Timings, race: RaceFacts | None = None
) -> ProcessResult:
    """The result of a race whose stage failed, said in the log and in the UI of the step that saw it."""
    verdict = ItemError.of(error)
    result = ProcessResult(
        race_id=error.race_id,
        status="failed",
        polled_at=datetime.now(UTC),
        timings=timings,
        error=verdict,
        race=race,
    )
    more: dict[str, int | None] = {"rolled_back": True} if verdict.stage == "write" else {}
    if isinstance(error, TransformError):
        more["worker_id"] = error.worker_id
    get_logger(race_id=error.race_id, run_id=context.run_id).error(
        f"{verdict.stage}_failed",
        race=result.title,
        retryable=verdict.retryable,
        error={"name": verdict.type, "message": verdict.message},
        **_measure_stage(verdict.stage, timings),
        **more,
    )
    context.log.error(
        f"Race {name_race(result)} failed in {verdict.stage}: {verdict.message} "
        f"({'the next poll may succeed' if verdict.retryable else 'another try would fail as well'})"
    )
    context.add_output_metadata(_describe(result, verdict))
    return result


def skip_race(
    context: dg.OpExecutionContext, race_id: str, reason: ItemError, timings: Timings, race: RaceFacts | None = None
) -> ProcessResult:
    """The result of a race there is nothing to write for: unknown to the API, or older than what is stored."""
    event = "fetch_null" if reason.stage == "fetch" else "write_stale"
    result = ProcessResult(
        race_id=race_id, status="skipped", polled_at=datetime.now(UTC), timings=timings, error=reason, race=race
    )
    get_logger(race_id=race_id, run_id=context.run_id).warning(
        event, race=result.title, reason=reason.message, **_measure_stage(reason.stage, timings)
    )
    context.log.warning(f"Race {name_race(result)} skipped: {reason.message}")
    context.add_output_metadata(_describe(result, reason))
    return result


def link_race(title: str, race_id: str) -> str:
    """A Markdown link to the page of a race, whatever its meeting is called."""
    text = title.translate({ord("["): "(", ord("]"): ")", ord("`"): "'"}) or "its page"
    return f"[{text}](/races/{quote(race_id, safe='')})"


def name_race(race: ProcessResult) -> str:
    """A race for people: meeting and race number where they are known, and the id."""
    return f"{race.title} ({race.race_id})" if race.race else race.race_id


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
    if result.timings.write_ms >= WRITE_BUDGET_MS:
        log.warning("write_over_budget", race=result.title, write_ms=result.timings.write_ms, target_ms=WRITE_BUDGET_MS)
        context.log.warning(
            f"The write of race {name_race(result)} took {result.timings.write_ms} ms, target {WRITE_BUDGET_MS} ms"
        )
    if result.over_budget:
        log.warning("pipeline_over_budget", total_ms=result.timings.total_ms, target_ms=RACE_BUDGET_MS)
        context.log.warning(f"Race {name_race(result)} took {result.timings.total_ms} ms, target {RACE_BUDGET_MS} ms")
    if result.status == "failed" and result.error:
        log.error(
            "batch_race_failed",
            race=result.title,
            stage=result.error.stage,
            retryable=result.error.retryable,
            timings=timings,
        )
    else:
        log.info("batch_race_complete", race=result.title, status=result.status, timings=timings)
    batch_log = get_logger(run_id=context.run_id)
    name = result.title or result.race_id
    board.end_item(result, name, lambda progress: batch_log.info("batch_progress", **progress.model_dump()))


def build_summary_metadata(outcome: BatchOutcome) -> dict[str, Any]:
    """The figures of a batch and its races as a Markdown table, slowest first."""
    return {
        **_count(outcome),
        "over_budget": outcome.over_budget,
        "write_share_percent": outcome.write_share_percent,
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
    head = "| race | id | status | fetch ms | transform ms | write ms | total ms | rows | quality | note |\n"
    rule = "|---|---|---|--:|--:|--:|--:|--:|--:|---|\n"
    races = sorted(outcome.races, key=lambda race: (race.status != "failed", -race.timings.total_ms))
    return build_listing(head + rule, races, _list_cells, "race_polls")


def log_summary(run_id: str, outcome: BatchOutcome) -> None:
    """The batch as one line."""
    get_logger(run_id=run_id).info(
        "batch_complete",
        **_count(outcome),
        over_budget=outcome.over_budget,
        write_share_percent=outcome.write_share_percent,
        requested_concurrency=outcome.requested_concurrency,
        effective_concurrency=outcome.effective_concurrency,
        row_counts=outcome.row_counts.model_dump(),
        db_pool=outcome.db_pool.model_dump(),
        workers=outcome.workers.model_dump(),
        failed=[
            {"race_id": race.race_id, "race": race.title, **race.error.model_dump()}
            for race in outcome.errors
            if race.error
        ],
    )


def build_failure_tags(outcome: BatchOutcome) -> dict[str, str]:
    """Tags by which a run with failed races is seen in the list of runs; none without any."""
    if not outcome.errors:
        return {}
    names = ", ".join(race.title or race.race_id for race in outcome.errors)
    return {FAILED_TAG: str(outcome.failures), FAILED_RACES_TAG: shorten_text(names, LONGEST_TAG)}


def report_live_polls(run_id: str, outcome: BatchOutcome, counts: Mapping[str, int]) -> None:
    """One line for each race that the schedule had polled, and one more for each that is over with this poll.

    ``counts``: how often each race that is over was polled, this poll included.
    """
    for race in outcome.races:
        if race.race is None:
            continue
        log = get_logger(race_id=race.race_id, run_id=run_id)
        seconds_to_start = round((race.race.start_time - race.polled_at).total_seconds())
        log.info(
            "scheduler_race_polled",
            race=race.title,
            status=race.status,
            race_status=race.race.status,
            seconds_to_start=seconds_to_start,
        )
        if is_over(race):
            log.info(
                "scheduler_race_completed",
                race=race.title,
                reason="the race is over: the feed says so",
                final_status=race.race.status,
                total_polls=counts.get(race.race_id, 1),
                seconds_to_start=seconds_to_start,
            )


def report_recovered(run_id: str, outcome: BatchOutcome, recovered: Sequence[RecoveredRace]) -> None:
    """One line for each race that was polled with success after polls of it had failed."""
    races = {race.race_id: race for race in outcome.races}
    for before in recovered:
        race = races[before.race_id]
        get_logger(race_id=race.race_id, run_id=run_id).info(
            "race_recovered",
            race=race.title,
            failed_polls=before.failed_polls,
            seconds=round((race.polled_at - before.failing_since).total_seconds()),
        )


def is_over(race: ProcessResult) -> bool:
    """Whether this poll stored that the race is over, after which the schedule polls it no more."""
    return race.success and race.race is not None and race.race.status in TERMINAL_STATUSES


def report_unanswered(run_id: str, outcome: BatchOutcome, stored: Sequence[FollowedRace], now: datetime) -> None:
    """One line for each live race that has had no new answer for three intervals, whatever the reason."""
    reasons = {race.race_id: race.error.message for race in outcome.races if race.error}
    for race in stored:
        is_live = race.status not in TERMINAL_STATUSES and now - LOOK_BACK < race.start_time <= now + LAST_MINUTES
        if is_live and is_without_answer(race.start_time, race.answered_at, now):
            get_logger(race_id=race.race_id, run_id=run_id).error(
                "race_without_answer",
                race=race.title,
                seconds=None if race.answered_at is None else round((now - race.answered_at).total_seconds()),
                reason=reasons.get(race.race_id, race.error),
            )


def warn_of_budgets(context: dg.OpExecutionContext, outcome: BatchOutcome) -> None:
    """Says so when the batch came near or over its time, or near the end of the pool."""
    log = get_logger(run_id=context.run_id)
    if outcome.near_budget:
        say, ui = (log.error, context.log.error) if outcome.over_budget else (log.warning, context.log.warning)
        say("batch_sla_warning", batch_duration_ms=outcome.batch_duration_ms, target_ms=outcome.budget_ms)
        ui(f"The batch took {outcome.batch_duration_ms} ms, target {outcome.budget_ms} ms")
    pool = outcome.db_pool
    if log_pool_use(context.run_id, pool.peak, pool.max, pool.waiting_peak, opened=pool.opened) != "info":
        context.log.warning(f"{pool.peak} of {pool.max} database connections were in use at once")


def log_pool_use(run_id: str, in_use: int, maximum: int, waiting: int = 0, *, opened: int) -> str:
    """How full the pool is, or was at its fullest, as one line: a warning from 70 %, an error from 80 % or when
    somebody waits; returns the level. At its peak no fewer connections were open than were in use."""
    opened = max(opened, in_use)
    percent = round(100 * in_use / maximum)
    level = "error" if waiting or percent >= 80 else "warning" if percent >= 70 else "info"
    log = get_logger(run_id=run_id)
    say = {"info": log.info, "warning": log.warning, "error": log.error}[level]
    use = {"opened": opened, "idle": opened - in_use, "in_use": in_use, "waiting": waiting}
    say("db_pool_utilization", **use, max=maximum, percent=percent)
    return level


def shorten_text(text: str, longest: int) -> str:
    """At most so many characters, with an ellipsis where some were left out."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _measure_stage(stage: str, timings: Timings) -> dict[str, int]:
    return {f"{stage}_ms": timings.model_dump()[f"{stage}_ms"]}


def _describe(result: ProcessResult, verdict: ItemError) -> dict[str, str | int | bool]:
    return {
        "race_id": result.race_id,
        "race": result.title,
        "status": result.status,
        **result.timings.model_dump(),
        "error_stage": verdict.stage,
        "error_type": verdict.type,
        "error_message": verdict.message,
        "retryable": verdict.retryable,
    }


def count_items(outcome: BatchResults[Any], kind: str, slowest: str) -> dict[str, int | str]:
    """The figures that every batch has; ``kind``: what its items are called; ``slowest``: the name of the slowest."""
    return {
        f"total_{kind}s": len(outcome.items),
        "successes": outcome.successes,
        "skipped": outcome.skipped,
        "failures": outcome.failures,
        "retryable_failures": outcome.retryable_failures,
        "max_duration_ms": outcome.max_duration_ms,
        "batch_duration_ms": outcome.batch_duration_ms,
        f"slowest_{kind}": slowest,
    }


def _count(outcome: BatchOutcome) -> dict[str, int | str]:
    return count_items(outcome, "race", name_race(outcome.slowest) if outcome.slowest else "")


def _list_cells(race: ProcessResult) -> Iterator[object]:
    yield from (link_race(race.title, race.race_id), race.race_id, race.status, *race.timings.model_dump().values())
    yield from (race.row_counts.total, "" if race.quality_score is None else race.quality_score)
    yield f"{race.error.stage}: {race.error.message}" if race.error else ""


def build_listing(
    head: str, items: Sequence[ItemT], list_cells: Callable[[ItemT], Iterable[object]], table: str
) -> str:
    """A Markdown table of the first items under its two lines of head; ``table``: where the others are found."""
    rows = "".join(build_row(list_cells(item)) for item in items[:SHOWN_ITEMS])
    more = len(items) - SHOWN_ITEMS
    return head + rows + (f"\n… and {more} more in the table `{table}`\n" if more > 0 else "")


def build_row(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"
