"""The beginning of a racing day: its meetings and races, listed, stored and registered as partitions."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.ops.batch import Batch, send_races
from raceday_dagster.defs.ops.day_list import (
    choose_racing_day,
    fetch_day,
    order_races,
    register_races,
    reporting_failure,
)
from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_today
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import RaceStore

DAY_BUDGET_MS = 15 * 60 * 1000
FAILED = "daily_initialization_failed"


class FetchMeetings(dg.Config):
    """Which racing day to load."""

    racing_day: str = Field(
        default="", description="The racing day, YYYY-MM-DD as the TAB labels it. Empty: today in New Zealand."
    )


@dg.op(description="Meetings and races of a racing day, every page of the list, as the settings filter them.")
def fetch_meetings(
    context: dg.OpExecutionContext,
    config: FetchMeetings,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
) -> RacingDay:
    racing_day = choose_racing_day(config.racing_day, choose_today(datetime.now(UTC)))
    get_logger(run_id=context.run_id).info("daily_initialization_start", nz_date=racing_day)
    return fetch_day(context, racing_day, settings, racing_api, failed=FAILED)


@dg.op(
    description="Stores the day's meetings and races, registers each race as a partition and sends it to be polled, "
    "with the races of the day before that are not settled and those of the last week that are not over.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch)},
)
def write_meetings(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[str]]:
    listed = order_races(day)
    day_before = day.racing_day - timedelta(days=1)
    began_s = time.monotonic()
    with reporting_failure(context, FAILED, day.racing_day):
        created = race_store.ensure_partitions([day.racing_day])
        counts = race_store.write_racing_day(day)
        unsettled = race_store.read_races_to_recheck([day_before], day.generated_at)
    race_ids = list(dict.fromkeys([*listed, *(race.race_id for race in unsettled)]))
    registered = register_races(context.instance, race_ids)
    write_ms = round(1000 * (time.monotonic() - began_s))
    log = get_logger(run_id=context.run_id)
    if not listed:
        log.warning("daily_initialization_empty", nz_date=day.racing_day, meetings=len(day.meetings))
        context.log.warning(f"No race is listed for {day.racing_day}; meeting_status stores those that are added")
    log.info(
        "daily_initialization_complete",
        nz_date=day.racing_day,
        meetings=len(day.meetings),
        races=len(listed),
        reread=len(unsettled),
        row_counts=counts.model_dump(),
        duration_ms=write_ms,
    )
    yield from send_races(
        context,
        race_ids,
        race_store,
        progress_board,
        budget_ms=DAY_BUDGET_MS,
        metadata={
            "write_ms": write_ms,
            "rows/meetings": counts.meetings,
            "rows/races": counts.races,
            "history_partitions_created": created,
            "partitions_registered": registered,
            "reread": len(unsettled),
        },
    )
