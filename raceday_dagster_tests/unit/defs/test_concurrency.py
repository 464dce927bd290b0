"""The jobs that ask for a whole day never have more than five events in flight."""

import pytest

from raceday_dagster.defs.concurrency import lower_concurrency, read_limit
from raceday_dagster.defs.jobs import JOBS


@pytest.mark.parametrize(
    ("requested", "pool_max", "limit", "effective"),
    [(10, 10, 5, 5), (10, 3, 5, 3), (2, 10, 5, 2), (10, 10, None, 10), (0, 10, 5, 1)],
)
def test_the_lowest_of_request_pool_and_job_counts(
    requested: int, pool_max: int, limit: int | None, effective: int
) -> None:
    assert lower_concurrency(requested, pool_max, limit) == effective


def test_the_jobs_of_a_whole_day_have_a_limit_that_their_runs_can_read() -> None:
    limits = {job.name: read_limit(job.tags) for job in JOBS}
    assert {name for name, limit in limits.items() if limit is not None} == {"daily_baseline", "evening_backfill"}
    executors = {job.executor_def.name for job in JOBS if limits[job.name] is not None}
    assert executors == {"threaded_day"}
