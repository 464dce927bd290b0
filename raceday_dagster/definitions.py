"""The code location: what Dagster loads. Loading it opens nothing and reads no environment."""

from collections.abc import Mapping

import dagster as dg

from raceday_dagster.defs.assets import RACE_BATCHES, SETTLED_RACES, check_data
from raceday_dagster.defs.automation.schedules import SCHEDULES
from raceday_dagster.defs.automation.sensors import SENSORS
from raceday_dagster.defs.jobs import JOBS
from raceday_dagster.defs.resources import RESOURCES


def build_definitions(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """All jobs with what begins them and their resources; ``resource_overrides`` replaces some by name, as tests do."""
    return dg.Definitions(
        assets=[RACE_BATCHES, SETTLED_RACES],
        asset_checks=[check_data],
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={**RESOURCES, **(resource_overrides or {})},
    )


defs = build_definitions()
