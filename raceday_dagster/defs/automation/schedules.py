"""What happens by the clock, in New Zealand time. What happens because a race is due is a sensor's.

Each run is told its racing day by the time it was scheduled for, so a run that is late or caught up still does the day
it was meant for. Nothing fires between 02:00 and 03:00, an hour that two nights a year skip or repeat.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from raceday_dagster.defs.jobs import (
    daily_baseline_job,
    data_checks_job,
    evening_backfill_job,
    meeting_status_job,
    process_images_job,
)
from raceday_dagster.defs.ops.day import build_day_config
from raceday_dagster.defs.ops.maintenance import maintenance_job
from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_current_racing_day
from raceday_dagster.racing.first_load import GRACE

RunConfig = Mapping[str, Any]


def choose_day_config(scheduled_at: datetime) -> RunConfig:
    """Run config with the racing day that is under way at an instant."""
    return build_day_config(choose_current_racing_day(scheduled_at))


def build_schedule(
    job_name: str,
    cron: str,
    description: str,
    build_run_config: Callable[[datetime], RunConfig] = choose_day_config,
    *,
    latest: timedelta | None = None,
    is_on: bool = True,
) -> dg.ScheduleDefinition:
    """A schedule of a job, on from the start if ``is_on``, that asks for one run a tick however often the tick is
    repeated; for none, later than ``latest`` after its time."""

    @dg.schedule(
        name=f"{job_name}_schedule",
        job_name=job_name,
        cron_schedule=cron,
        execution_timezone=NEW_ZEALAND.key,
        default_status=dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED,
        description=description,
    )
    def evaluate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        scheduled_at = context.scheduled_execution_time
        if latest is not None and datetime.now(UTC) - scheduled_at > latest:
            return dg.SkipReason(f"Too late for {scheduled_at.astimezone(NEW_ZEALAND):%H:%M}: left to the sensor")
        return dg.RunRequest(
            run_key=f"{job_name} {scheduled_at.astimezone(NEW_ZEALAND).isoformat()}",
            run_config=build_run_config(scheduled_at),
        )

    return evaluate


SCHEDULES: tuple[dg.ScheduleDefinition, ...] = (
    build_schedule(
        maintenance_job.name,
        "0 4 * * *",
        "Every night at 04:00: history partitions made ahead and behind, old races and old runs removed.",
        lambda _scheduled_at: {},
    ),
    build_schedule(
        daily_baseline_job.name,
        "0 6 * * *",
        "Every morning at 06:00: the racing day is loaded, and what yesterday left open is read again. The sensor "
        "first_baseline does it when nothing ran at 06:00.",
        latest=GRACE,  # from then on the sensor loads the day: two would do it at once
    ),
    build_schedule(
        evening_backfill_job.name,
        "0 21 * * *",
        "Every evening at 21:00: results, dividends and corrections, and races that were missed.",
    ),
    build_schedule(
        data_checks_job.name,
        "50 0-1,9-23 * * *",
        "Every hour from 09:50 to 01:50: whether the stored data of the racing day keeps its rules.",
        lambda _scheduled_at: {},
    ),
    build_schedule(
        meeting_status_job.name,
        "*/15 0-1,6-23 * * *",
        "Every 15 minutes but from 02:00 to 06:00: statuses, starts, track and weather of the meetings.",
    ),
    build_schedule(
        process_images_job.name,
        "30 6 * * *",
        "Every morning at 06:30, once it is switched on: the silks of the racing day that were never described. "
        "A vision API may cost money.",
        lambda scheduled_at: build_day_config(choose_current_racing_day(scheduled_at), "select_images"),
        is_on=False,
    ),
)
