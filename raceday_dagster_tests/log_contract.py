"""The log contract: every event of a live batch, of the day around it, of the sensors and of maintenance.

Each with its fields and their types, as whoever reads the log may rely on them. Tests that make such lines ask
`find_wrong`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Contract = Mapping[str, Mapping[str, type]]

RACE = {"race_id": str}
NAMED = {**RACE, "race": str}
TASK = {**RACE, "task_id": str}
EVERY_LINE = {"event": str, "level": str, "time": str}
IN_RUN = {"run_id": str}
EVENTS: dict[str, dict[str, type]] = {
    "batch_start": {"total": int, "requested_concurrency": int, "effective_concurrency": int, "db_pool": dict},
    "db_pool_utilization": dict.fromkeys(("opened", "idle", "in_use", "waiting", "max", "percent"), int),
    "pipeline_start": RACE,
    "fetch_start": RACE,
    "http_attempt": {**RACE, "attempt": int, "duration_ms": int, "outcome": str},
    "http_retry": {**RACE, "attempt": int, "delay_ms": int, "reason": str},
    "http_client_error": {**RACE, "status": int, "reason": str, "excerpt": str},
    "http_validation_error": {**RACE, "problem": str},
    "fetch_complete": {**RACE, "fetch_ms": int},
    "fetch_failed": {**NAMED, "retryable": bool, "error": dict, "fetch_ms": int},
    "fetch_null": {**NAMED, "reason": str, "fetch_ms": int},
    "worker_task_enqueued": {**TASK, "queue_depth": int},
    "worker_task_assigned": {**TASK, "worker_id": int},
    "worker_task_completed": {**TASK, "worker_id": int, "duration_ms": int},
    "worker_started": {"worker_id": int, "pid": int},
    "worker_pool_initialized": {"workers": int, "task_timeout_s": float},
    "worker_pool_shutdown_start": {},
    "worker_pool_shutdown_complete": {"unfinished": int},
    "transform_start": RACE,
    "transform_complete": {
        **RACE,
        **dict.fromkeys(("transform_ms", "entrants", "money_flow_records", "quality_score"), int),
        "quality_valid": bool,
        "warnings": list,
    },
    "write_start": RACE,
    "write_complete": {**RACE, "write_ms": int, "row_counts": dict, "breakdown_ms": dict},
    "pipeline_complete": {**RACE, "status": str, "timings": dict, "row_counts": dict, "over_budget": bool},
    "batch_race_complete": {**NAMED, "status": str, "timings": dict},
    "batch_race_failed": {**NAMED, "stage": str, "retryable": bool, "timings": dict},
    "batch_progress": {
        **dict.fromkeys(("total", "completed", "successful", "skipped", "failed", "processing", "pending"), int),
        "eta_ms": int,
        "current": str,
    },
    "batch_complete": {
        **dict.fromkeys(("total_races", "successes", "skipped", "failures", "retryable_failures"), int),
        **dict.fromkeys(("max_duration_ms", "batch_duration_ms", "write_share_percent"), int),
        **dict.fromkeys(("requested_concurrency", "effective_concurrency"), int),
        "slowest_race": str,
        "over_budget": bool,
        "row_counts": dict,
        "db_pool": dict,
        "workers": dict,
        "failed": list,
    },
    "scheduler_race_polled": {**NAMED, "status": str, "race_status": str, "seconds_to_start": int},
    "race_recovered": {**NAMED, "failed_polls": int, "seconds": int},
    "scheduler_race_completed": {
        **NAMED,
        "reason": str,
        "final_status": str,
        "total_polls": int,
        "seconds_to_start": int,
    },
}
DAY = {
    "nz_date": str,
    **dict.fromkeys(("meetings", "races", "polled", "entrants", "duration_ms"), int),
    "failed": list,
}
DAY_EVENTS: dict[str, dict[str, type]] = {
    "daily_initialization_start": {"nz_date": str},
    "daily_initialization_complete": DAY,
    "daily_initialization_failed": {"nz_date": str, "error": str, "retryable": bool},
    "evening_backfill_start": {"nz_date": str},
    "evening_backfill_complete": DAY,
    "meeting_status_complete": {
        "nz_date": str,
        **dict.fromkeys(("changed_meetings", "changed_races", "partitions_registered", "duration_ms"), int),
    },
}
BUSY_MACHINE = {
    "pipeline_over_budget": {**RACE, "total_ms": int, "target_ms": int},
    "write_over_budget": {**NAMED, "write_ms": int, "target_ms": int},
    "batch_sla_warning": {"batch_duration_ms": int, "target_ms": int},
}
"""Said or not, as busy as the machine is that runs the test."""
TRANSFORM_FAILED: Contract = {
    "transform_failed": {**NAMED, "retryable": bool, "error": dict, "transform_ms": int, "worker_id": int}
}
"""Said when the calculation itself fails, which no answer of the simulator brings about."""
_DUE = dict.fromkeys(("due", "in_flight", "watched"), int)
SENSOR_EVENTS: Contract = {
    "scheduler_race_scheduled": {**_DUE, "scheduled": int, "runs": int, "due_at": str},
    "scheduler_race_skip": {**_DUE, "reason": str},
    "scheduler_interval_changed": {**RACE, "old": int, "new": int, "seconds_to_start": int},
    "alert": {"state": str, "alert": str, "about": str, "text": str},
    "alert_webhook_failed": {"alerts": int, "reason": str},
}
"""Said by ticks, which belong to no run."""
MAINTENANCE_EVENTS: Contract = {
    "partition_creation_start": {"until": str},
    "partition_creation_complete": {"until": str, "names": list},
    "partition_creation_failed": {"until": str, "error": str},
    "partition_detached": {"partition": str},
    "run_folder_left": {"count": int},
}


def find_wrong(
    lines: Iterable[Mapping[str, Any]], contract: Contract, *, in_run: bool = True
) -> list[Mapping[str, Any]]:
    """Those whose event, fields or types are not in the contract."""
    around = {**EVERY_LINE, **(IN_RUN if in_run else {})}
    expected = {event: {**around, **fields} for event, fields in contract.items()}
    return [
        line for line in lines if {name: type(value) for name, value in line.items()} != expected.get(line["event"])
    ]
