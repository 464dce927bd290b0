"""How many races run at once: what was asked for, lowered to what the connection pool carries and the job allows."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from raceday_dagster.dagster_plugins.executor import build_threaded_executor
from raceday_dagster.defs.failures import refusing_plainly
from raceday_dagster.logs import get_logger
from raceday_dagster.settings import Settings

DEFAULT_CONCURRENCY = 5
DAY_LIMIT = 5
"""A job that asks the API for a whole day of races never asks for more at once, whatever its run config says."""
LIMIT_TAG = "raceday/max_concurrent"
DAY_TAGS: Mapping[str, str] = {LIMIT_TAG: str(DAY_LIMIT)}
"""On the jobs that use ``day_executor``, so that their batches report the concurrency they really have."""


def lower_concurrency(requested: int, pool_max: int, limit: int | None = None) -> int:
    """Races in flight at once: at least 1, at most one per connection of the pool, at most the job's ``limit``."""
    return max(1, min(requested, pool_max, requested if limit is None else limit))


def read_requested_concurrency(run_config: Mapping[str, Any]) -> int:
    """``execution.config.max_concurrent`` of a run's config, or the default."""
    execution = run_config.get("execution") or {}
    return int((execution.get("config") or {}).get("max_concurrent", DEFAULT_CONCURRENCY))


def read_limit(tags: Mapping[str, str]) -> int | None:
    """The limit that a run's job sets itself; ``None`` when it sets none."""
    return DAY_LIMIT if LIMIT_TAG in tags else None


def choose_concurrency(requested: int, limit: int | None) -> int:
    """``lower_concurrency`` with the pool of the settings; an executor is built before a run has its resources."""
    return lower_concurrency(requested, _read_pool_max(), limit)


def _choose_ceiling(requested: int, *, limit: int | None) -> int:
    """``choose_concurrency`` for an executor, said in the log when it is less than what was asked for."""
    effective = choose_concurrency(requested, limit)
    if effective != requested:
        get_logger().warning(
            "batch_concurrency_adjusted",
            requested=requested,
            effective=effective,
            pool_limit=_read_pool_max(),
            job_limit=limit,
        )
    return effective


def _read_pool_max() -> int:
    with refusing_plainly():
        return Settings.from_environment().db_pool_max


race_executor = build_threaded_executor(
    name="threaded", default_max_concurrent=DEFAULT_CONCURRENCY, ceiling=partial(_choose_ceiling, limit=None)
)
day_executor = build_threaded_executor(
    name="threaded_day", default_max_concurrent=DEFAULT_CONCURRENCY, ceiling=partial(_choose_ceiling, limit=DAY_LIMIT)
)
