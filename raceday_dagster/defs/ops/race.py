"""The three stages of one race as ops: ``fetch_race`` → ``transform_race`` → ``write_race``.

An expected failure is a value: the stage that fails returns a ``ProcessResult`` and the stages behind it hand it on
untouched, because in Dagster a mapped step that raises takes the summary of the whole batch with it. Only a bug
raises. ``write_race`` ends every race, whatever became of it.
"""

import time
from typing import TypeAlias

import dagster as dg

from raceday_dagster.defs.ops.batch import describe_run, find_request_time, wait_until
from raceday_dagster.defs.reporting import ProgressBoard, end_race, fail_race, skip_race
from raceday_dagster.errors import FetchError, TransformError, WriteError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import (
    UNKNOWN_RACE,
    FetchedRace,
    ProcessResult,
    RaceFacts,
    RaceInProgress,
    Timings,
    TransformedRace,
)
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import Poll, RaceStore
from raceday_dagster.workers.pool import TransformWorkers

FETCH_SHARE = 5 / 6
"""The part of a race's deadline that the fetch may use; the rest is kept for transform and write."""
LEDGER_DEADLINE_S = 2.0

FetchOutcome: TypeAlias = FetchedRace | ProcessResult
"""What ``fetch_race`` hands on: the race's answer, or how the race ended without one."""
TransformOutcome: TypeAlias = TransformedRace | ProcessResult
"""What ``transform_race`` hands on: the race ready to be written, or how the race has ended."""

# Dagster checks values against its own types and has none for a union of classes.
FETCH_OUTCOME = dg.DagsterType(
    lambda _context, value: isinstance(value, FetchOutcome),
    name="FetchOutcome",
    description="A FetchedRace, or the ProcessResult of a race that has ended.",
    typing_type=FetchOutcome,
)
TRANSFORM_OUTCOME = dg.DagsterType(
    lambda _context, value: isinstance(value, TransformOutcome),
    name="TransformOutcome",
    description="A TransformedRace, or the ProcessResult of a race that has ended.",
    typing_type=TransformOutcome,
)


def measure_ms(since_s: float) -> int:
    """Milliseconds since a reading of the monotonic clock."""
    return round(1000 * (time.monotonic() - since_s))


@dg.op(
    description="One answer of the API for one race, validated.",
    out=dg.Out(FETCH_OUTCOME),
    tags={"dagster/priority": "1", "stage": "fetch"},
)
def fetch_race(
    context: dg.OpExecutionContext,
    race_id: str,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
    transform_workers: dg.ResourceParam[TransformWorkers],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> FetchOutcome:
    transform_workers.start(1)  # it gets ready while the API answers
    if request_at := find_request_time(context.run.run_config, race_id):
        wait_until(request_at)
    log = get_logger(race_id=race_id, run_id=context.run_id)
    progress_board.start_item()
    started_s = time.monotonic()
    log.info("pipeline_start")
    log.info("fetch_start")
    ends_s = started_s + settings.race_deadline_s
    try:
        event = racing_api.fetch_race_event(race_id, deadline_s=FETCH_SHARE * settings.race_deadline_s)
    except FetchError as error:
        return fail_race(context, error, _spent(started_s, fetch_ms=measure_ms(started_s)))
    timings = _spent(started_s, fetch_ms=measure_ms(started_s))
    if event is None:
        return skip_race(context, race_id, UNKNOWN_RACE, timings)
    log.info("fetch_complete", fetch_ms=timings.fetch_ms)
    race = RaceFacts(
        title=f"{event.meeting_name} R{event.race_number}", start_time=event.start_time, status=event.status
    )
    context.add_output_metadata(
        {"race_id": race_id, "race": race.title, "fetch_ms": timings.fetch_ms}
        | {"status": event.status, "runners": len(event.runners)}
    )
    return FetchedRace(
        race_id=race_id,
        started_s=started_s,
        ends_s=ends_s,
        polled_at=event.received_at,
        timings=timings,
        race=race,
        event=event,
    )


@dg.op(
    description="Money flow, pools, odds, results and quality of one answer, computed in a worker process.",
    ins={"fetched": dg.In(FETCH_OUTCOME)},
    out=dg.Out(TRANSFORM_OUTCOME),
    tags={"dagster/priority": "2", "stage": "transform"},
)
def transform_race(
    context: dg.OpExecutionContext, fetched: FetchOutcome, transform_workers: dg.ResourceParam[TransformWorkers]
) -> TransformOutcome:
    if isinstance(fetched, ProcessResult):
        context.add_output_metadata({"passed_on": "the race ended in an earlier stage"})
        return fetched
    log = get_logger(race_id=fetched.race_id, run_id=context.run_id)
    log.info("transform_start")
    began_s = time.monotonic()
    try:
        snapshot = transform_workers.transform(fetched.event, timeout_s=_left_s(fetched))
    except TransformError as error:
        return fail_race(context, error, _advance(fetched, transform_ms=measure_ms(began_s)), fetched.race)
    timings = _advance(fetched, transform_ms=measure_ms(began_s))
    counts = {"entrants": len(snapshot.entrants), "money_flow_records": len(snapshot.money_flow)}
    quality = {"quality_score": snapshot.quality.score, "quality_valid": snapshot.quality.valid}
    log.info(
        "transform_complete", transform_ms=timings.transform_ms, **counts, **quality, warnings=snapshot.quality.warnings
    )
    context.add_output_metadata(
        {
            "race_id": fetched.race_id,
            "race": fetched.race.title,
            "transform_ms": timings.transform_ms,
            **counts,
            **quality,
        }
        | {"quality_warnings": list(snapshot.quality.warnings)}
    )
    return TransformedRace(
        race_id=fetched.race_id,
        started_s=fetched.started_s,
        ends_s=fetched.ends_s,
        polled_at=fetched.polled_at,
        timings=timings,
        race=fetched.race,
        snapshot=snapshot,
    )


@dg.op(
    description="One race into PostgreSQL in one transaction; the end of every race, failed ones included.",
    ins={"transformed": dg.In(TRANSFORM_OUTCOME)},
    tags={"dagster/priority": "3", "stage": "write"},
)
def write_race(
    context: dg.OpExecutionContext,
    transformed: TransformOutcome,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> ProcessResult:
    if isinstance(transformed, TransformedRace):
        result = _write(context, transformed, race_store)
    else:
        result = _record(context, transformed, race_store)
        context.add_output_metadata(
            {"race_id": result.race_id, "race": result.title, "status": result.status, **result.timings.model_dump()}
        )
    end_race(context, result, progress_board)
    return result


def _write(context: dg.OpExecutionContext, race: TransformedRace, race_store: RaceStore) -> ProcessResult:
    log = get_logger(race_id=race.race_id, run_id=context.run_id)
    log.info("write_start")
    began_s = time.monotonic()
    poll = Poll(
        **describe_run(context).model_dump(),
        fetch_ms=race.timings.fetch_ms,
        transform_ms=race.timings.transform_ms,
        elapsed_before_ms=measure_ms(race.started_s),
    )
    try:
        report = race_store.write_race(race.snapshot, poll, deadline_s=_left_s(race))
    except WriteError as error:
        failed = fail_race(context, error, _advance(race, write_ms=measure_ms(began_s)), race.race)
        return _record(context, failed, race_store)
    timings = _advance(race, write_ms=report.write_ms)
    if report.error is not None:
        return skip_race(context, race.race_id, report.error, timings, race.race)
    result = ProcessResult(
        race_id=race.race_id,
        status="success",
        polled_at=race.polled_at,
        timings=timings,
        row_counts=report.row_counts,
        quality_score=race.snapshot.quality.score,
        race=race.race,
    )
    if report.foreign_entrants:
        log.warning("entrants_of_another_race", count=report.foreign_entrants)
    log.info(
        "write_complete",
        write_ms=timings.write_ms,
        row_counts=report.row_counts.model_dump(),
        breakdown_ms=report.breakdown_ms,
    )
    context.add_output_metadata(
        {"race_id": race.race_id, "race": race.race.title, "status": "success", **timings.model_dump()}
        | {f"rows/{table}": rows for table, rows in report.row_counts.model_dump().items()}
    )
    return result


def _record(context: dg.OpExecutionContext, result: ProcessResult, race_store: RaceStore) -> ProcessResult:
    """Puts a race that was not written into the ledger. If the database refuses even that, the log has it and the
    summary of the batch tries once more."""
    try:
        race_store.record_poll(result, describe_run(context), deadline_s=LEDGER_DEADLINE_S)
    except WriteError as error:
        get_logger(race_id=result.race_id, run_id=context.run_id).error("ledger_failed", error=str(error))
    return result


def _spent(started_s: float, **stage_ms: int) -> Timings:
    return Timings(**stage_ms, total_ms=measure_ms(started_s))


def _advance(race: RaceInProgress, **stage_ms: int) -> Timings:
    return race.timings.model_copy(update={**stage_ms, "total_ms": measure_ms(race.started_s)})


def _left_s(race: RaceInProgress) -> float:
    """Seconds until the race's deadline, never less than a tenth: a stage that may not even begin says nothing."""
    return max(0.1, race.ends_s - time.monotonic())
