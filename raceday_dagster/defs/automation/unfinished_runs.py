"""Runs that have not ended, and the races that a run names in its config."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def find_races_in_config(run_config: Mapping[str, Any]) -> tuple[str, ...]:
    """``race_ids`` of ``select_races`` in a run's config; empty without any."""
    select_races = (run_config.get("ops") or {}).get("select_races") or {}
    return tuple(str(race_id) for race_id in (select_races.get("config") or {}).get("race_ids") or ())
