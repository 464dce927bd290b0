"""The same five races, polled three ways: through ``process_races``, by plain threads, by Dagster's processes."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import dagster as dg

from raceday_dagster.definitions import defs
from raceday_dagster.defs.jobs import poll_races
from raceday_dagster.defs.resources import RESOURCES, open_race_store
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.racing.outcomes import BatchOutcome, ConnectionUse, ProcessResult, Timings, WorkerUse
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import Poll, PollRun, RaceStore
from raceday_dagster.workers.pool import TransformWorkers


def threaded_job() -> dg.JobDefinition:
    """The job as users run it."""
    return defs.resolve_job_def("process_races")


def multiprocess_job() -> dg.JobDefinition:
    """The same graph and resources under Dagster's default executor; its steps need values on disk."""
    job = poll_races.to_job(name="process_races_multiprocess", executor_def=dg.multiprocess_executor)
    resources = {**RESOURCES, "io_manager": dg.fs_io_manager}
    return dg.Definitions(jobs=[job], resources=resources).resolve_job_def("process_races_multiprocess")


def run_job(job: object, instance: dg.DagsterInstance, race_ids: Sequence[str]) -> str:
    """One run of a job over the races; returns its run id."""
    config = {
        "ops": {"select_races": {"config": {"race_ids": list(race_ids)}}},
        "execution": {"config": {"max_concurrent": 5}},
    }
    result = dg.execute_job(dg.reconstructable(job), instance=instance, run_config=config)
    assert result.success, f"the run {result.run_id} failed"
    return result.run_id


def run_processes(instance: dg.DagsterInstance, race_ids: Sequence[str]) -> str:
    """One run of the job under Dagster's own executor, with what it needs to end well at all.

    Each of its steps is a process already, so the transform runs inline, without workers of its own; and its races
    get a minute, because most pass our deadline while they wait for a process.
    """
    ours = {"TRANSFORM_WORKERS": "0", "RACE_DEADLINE_S": "60"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        return run_job(multiprocess_job, instance, race_ids)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def run_threads(run_id: str, race_ids: Sequence[str]) -> BatchOutcome:
    """The floor: the same stages, resources and rows without an orchestrator."""
    settings = Settings.from_environment()
    started_at, started_s = datetime.now(UTC), time.monotonic()
    with (
        RacingApi(settings.nztab_api_url, settings.require_identity(), timeout_s=settings.nztab_timeout_s) as api,
        TransformWorkers(settings.transform_workers) as workers,
        open_race_store(settings) as store,
    ):
        workers.start(1)
        with ThreadPoolExecutor(5) as threads:
            races = list(threads.map(lambda race_id: _poll(run_id, race_id, api, workers, store), race_ids))
        outcome = BatchOutcome.of(
            races,
            started_at=started_at,
            batch_duration_ms=round(1000 * (time.monotonic() - started_s)),
            requested_concurrency=5,
            effective_concurrency=5,
            db_pool=ConnectionUse(max=store.gauge.max, peak=store.gauge.peak),
            workers=WorkerUse(total=settings.transform_workers, busy_peak=0, queue_depth_peak=0, restarts=0),
        )
        store.record_batch(PollRun(run_id=run_id), outcome)
    assert outcome.successes == len(race_ids)
    return outcome


def _poll(run_id: str, race_id: str, api: RacingApi, workers: TransformWorkers, store: RaceStore) -> ProcessResult:
    started_s = time.monotonic()
    event = api.fetch_race_event(race_id, deadline_s=10)
    assert event is not None
    fetch_ms = round(1000 * (time.monotonic() - started_s))
    snapshot = workers.transform(event, timeout_s=5)
    elapsed_ms = round(1000 * (time.monotonic() - started_s))
    poll = Poll(run_id=run_id, fetch_ms=fetch_ms, transform_ms=elapsed_ms - fetch_ms, elapsed_before_ms=elapsed_ms)
    report = store.write_race(snapshot, poll, deadline_s=5)
    return ProcessResult(
        race_id=race_id,
        status="success",
        polled_at=event.received_at,
        timings=Timings(
            fetch_ms=fetch_ms, write_ms=report.write_ms, total_ms=round(1000 * (time.monotonic() - started_s))
        ),
        row_counts=report.row_counts,
        quality_score=snapshot.quality.score,
    )
