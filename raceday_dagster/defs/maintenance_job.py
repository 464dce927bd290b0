"""The job `maintenance`: four ops that do not wait for each other's success, one at a time."""

import dagster as dg

from raceday_dagster.dagster_plugins.executor import build_threaded_executor
from raceday_dagster.defs.ops.maintenance import archive_history, create_history_partitions, remove_old_partitions
from raceday_dagster.defs.ops.run_retention import delete_old_runs

LONGEST_RUN_S = 3_600  # after weeks without maintenance; a live batch gets far less
# One connection beside live polling. Nothing joins the ops: one that fails leaves the others their turn, in the order
# of their priorities.
one_at_a_time = build_threaded_executor(name="one_at_a_time", default_max_concurrent=1)


@dg.graph(description="History partitions ahead and behind, keys of old races, Dagster's old runs.")
def maintain() -> None:
    create_history_partitions()
    archive_history()
    remove_old_partitions()
    delete_old_runs()


maintenance_job = maintain.to_job(
    name="maintenance",
    description="History partitions made ahead, old ones archived; keys of old races and Dagster's old runs removed.",
    executor_def=one_at_a_time,
    tags={"dagster/max_retries": "0", "dagster/max_runtime": str(LONGEST_RUN_S), "dagster/priority": "5"},
)
"""Safe to run twice, and while races are polled."""
