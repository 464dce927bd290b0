"""How many races run at once: what was asked for, lowered to what the connection pool carries."""

from collections.abc import Mapping
from typing import Any

from raceday_dagster.defs.refusals import refusing_plainly
from raceday_dagster.executor import build_threaded_executor
from raceday_dagster.logs import get_logger
from raceday_dagster.settings import Settings

DEFAULT_CONCURRENCY = 5


def lower_concurrency(requested: int, pool_max: int) -> int:
    """Races in flight at once: at least 1, at most one per connection of the pool."""
    return max(1, min(requested, pool_max))


def read_requested_concurrency(run_config: Mapping[str, Any]) -> int:
    """``execution.config.max_concurrent`` of a run's config, or the default."""
    execution = run_config.get("execution") or {}
    return int((execution.get("config") or {}).get("max_concurrent", DEFAULT_CONCURRENCY))


def _lower_to_pool(requested: int) -> int:
    with refusing_plainly():
        pool_max = Settings.from_environment().db_pool_max
    effective = lower_concurrency(requested, pool_max)
    if effective != requested:
        get_logger().warning(
            "batch_concurrency_adjusted", requested=requested, effective=effective, pool_limit=pool_max
        )
    return effective


race_executor = build_threaded_executor(
    name="threaded", default_max_concurrent=DEFAULT_CONCURRENCY, ceiling=_lower_to_pool
)
