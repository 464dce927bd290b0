"""How many races run at once: what was asked for, lowered to what the pool and the job allow."""

import pytest

from raceday_dagster.defs.concurrency import lower_concurrency, read_limit, read_requested_concurrency
from raceday_dagster.defs.jobs import JOBS


@pytest.mark.parametrize(
    ("requested", "pool_max", "limit", "effective"),
    [(10, 10, 5, 5), (10, 3, 5, 3), (2, 10, 5, 2), (10, 10, None, 10), (5, 3, None, 3), (0, 10, 5, 1)],
)
def test_the_lowest_of_request_pool_and_job_counts(
    requested: int, pool_max: int, limit: int | None, effective: int
) -> None:
    assert lower_concurrency(requested, pool_max, limit) == effective


@pytest.mark.parametrize(
    ("run_config", "requested"),
    [({}, 5), ({"execution": {}}, 5), ({"execution": {"config": {"max_concurrent": 2}}}, 2)],
)
def test_the_concurrency_asked_for_is_that_of_the_run(run_config: dict[str, object], requested: int) -> None:
    assert read_requested_concurrency(run_config) == requested


def test_the_jobs_of_a_whole_day_have_a_limit_that_their_runs_can_read() -> None:
    limits = {job.name: read_limit(job.tags) for job in JOBS}
    assert {name for name, limit in limits.items() if limit is not None} == {"daily_baseline", "evening_backfill"}
    executors = {job.executor_def.name for job in JOBS if limits[job.name] is not None}
    assert executors == {"threaded_day"}
