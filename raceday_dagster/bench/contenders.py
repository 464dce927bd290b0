"""The same races polled in several ways: by our job, by plain threads, by Dagster's own executors.

Each run opens and closes its own HTTP session, connection pool and worker pool, writes the same rows and the same
ledger, and returns the run id by which the ledger knows it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import uuid4

import dagster as dg

from raceday_dagster.defs.jobs import poll_races, process_races_job
from raceday_dagster.defs.resources import RESOURCES, open_race_store
from raceday_dagster.errors import BenchError, PipelineError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.outcomes import (
    UNKNOWN_RACE,
    BatchOutcome,
    ItemError,
    ProcessResult,
    Status,
    Timings,
)
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import Poll, PollRun, RaceStore
from raceday_dagster.workers.pool import TransformWorkers

OURS = "process_races"
FLOOR = "plain_threads"
IN_PROCESS = "in_process"
MULTIPROCESS = "multiprocess"
Contender = Callable[[], str]
"""One run of the batch; returns its run id."""

# Each step is a process already, so the transform runs inline, without workers of its own; and a race gets a minute,
# because most pass our deadline while they wait for a process.
PATIENT = {
    "settings": {"config": {"race_deadline_s": 60.0}},
    "transform_workers": {"config": {"transform_workers": 0}},
}


IN_PROCESS_JOB = poll_races.to_job(name="process_races_in_process", executor_def=dg.in_process_executor)
MULTIPROCESS_JOB = poll_races.to_job(name="process_races_multiprocess", executor_def=dg.multiprocess_executor)


@cache
def resolve_job(job: dg.JobDefinition, **resources: Any) -> dg.JobDefinition:
    """A job with its resources: once, as a process that runs jobs has its definitions before the run begins."""
    return dg.Definitions(jobs=[job], resources={**RESOURCES, **resources}).resolve_job_def(job.name)


def process_races() -> dg.JobDefinition:
    """The job as users run it."""
    return resolve_job(process_races_job)


def in_process_job() -> dg.JobDefinition:
    """The same graph and resources, one step after the other."""
    return resolve_job(IN_PROCESS_JOB)


def multiprocess_job() -> dg.JobDefinition:
    """The same graph and resources under Dagster's default executor; its steps need values on disk."""
    return resolve_job(MULTIPROCESS_JOB, io_manager=dg.fs_io_manager)


def build_contenders(instance: dg.DagsterInstance, race_ids: Sequence[str], concurrency: int) -> dict[str, Contender]:
    """Every way to poll these races, by name, with ``OURS`` as the first."""
    in_flight = {"execution": {"config": {"max_concurrent": concurrency}}}
    return {
        OURS: lambda: run_job(process_races, instance, race_ids, in_flight),
        FLOOR: lambda: run_threads(race_ids, concurrency),
        IN_PROCESS: lambda: run_job(in_process_job, instance, race_ids, {}),
        MULTIPROCESS: lambda: run_job(multiprocess_job, instance, race_ids, {**in_flight, "resources": PATIENT}),
    }


def run_job(
    job: Callable[[], dg.JobDefinition],
    instance: dg.DagsterInstance,
    race_ids: Sequence[str],
    config: Mapping[str, Any],
) -> str:
    """One run of a job over the races; failed races do not make it fail.

    Raises:
        BenchError: The run could not do its work.
        dagster.DagsterExecutionInterruptedError: Ctrl-C.
    """
    ops = {
        "select_races": {"config": {"race_ids": list(race_ids)}},
        "summarise_batch": {"config": {"fail_run_when": "never"}},
    }
    try:
        result = dg.execute_job(
            dg.reconstructable(job), instance=instance, run_config={**config, "ops": ops}, raise_on_error=True
        )
    except dg.Failure as failure:
        raise BenchError(f"a run failed: {failure.description}") from failure
    return result.run_id


def run_threads(race_ids: Sequence[str], concurrency: int) -> str:
    """The floor: the same stages, resources and rows without an orchestrator."""
    settings = Settings.from_environment()
    run = PollRun(run_id=str(uuid4()))
    started_at, started_s = datetime.now(UTC), time.monotonic()
    with (
        RacingApi(settings.nztab_api_url, settings.require_identity(), timeout_s=settings.nztab_timeout_s) as api,
        TransformWorkers(settings.transform_workers) as workers,
        open_race_store(settings) as store,
    ):
        workers.start(1)
        with ThreadPoolExecutor(concurrency) as threads:
            races = list(threads.map(lambda race_id: _poll(run, race_id, api, workers, store), race_ids))
        outcome = BatchOutcome.of(
            races,
            started_at=started_at,
            batch_duration_ms=_measure_ms(started_s),
            requested_concurrency=concurrency,
            effective_concurrency=concurrency,
            db_pool=store.gauge.read_use(),
            workers=workers.metrics().use,
        )
        store.record_batch(run, outcome)
    return run.run_id


def _poll(run: PollRun, race_id: str, api: RacingApi, workers: TransformWorkers, store: RaceStore) -> ProcessResult:
    started_s = time.monotonic()
    try:
        event = api.fetch_race_event(race_id, deadline_s=10)
        if event is not None:
            return _transform_and_write(run, event, started_s, workers, store)
        status: Status = "skipped"
        error = UNKNOWN_RACE
    except PipelineError as failure:
        status, error = "failed", ItemError.of(failure)
    timings = Timings(total_ms=_measure_ms(started_s))
    result = ProcessResult(race_id=race_id, status=status, polled_at=datetime.now(UTC), timings=timings, error=error)
    store.record_poll(result, run)
    return result


def _transform_and_write(
    run: PollRun, event: RaceEvent, started_s: float, workers: TransformWorkers, store: RaceStore
) -> ProcessResult:
    fetch_ms = _measure_ms(started_s)
    snapshot = workers.transform(event, timeout_s=5)
    elapsed_ms = _measure_ms(started_s)
    transform_ms = elapsed_ms - fetch_ms
    poll = Poll(run_id=run.run_id, fetch_ms=fetch_ms, transform_ms=transform_ms, elapsed_before_ms=elapsed_ms)
    report = store.write_race(snapshot, poll, deadline_s=5)
    return ProcessResult(
        race_id=event.race_id,
        status="skipped" if report.error else "success",
        polled_at=event.received_at,
        timings=Timings(
            fetch_ms=fetch_ms,
            transform_ms=transform_ms,
            write_ms=report.write_ms,
            total_ms=_measure_ms(started_s),
        ),
        row_counts=report.row_counts,
        quality_score=snapshot.quality.score,
        error=report.error,
    )


def _measure_ms(since_s: float) -> int:
    return round(1000 * (time.monotonic() - since_s))
