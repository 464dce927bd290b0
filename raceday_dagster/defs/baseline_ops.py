"""The beginning of a racing day: its meetings and races, listed, stored and registered as partitions."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.batch_ops import Batch, send_races
from raceday_dagster.defs.partitions import RACES
from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.defs.refusals import failing_plainly
from raceday_dagster.errors import FetchError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import Settings
from raceday_dagster.transform.meetings import select_meetings
from raceday_dagster.write.store import RaceStore

NEW_ZEALAND = ZoneInfo("Pacific/Auckland")
BASELINE_BUDGET_MS = 15 * 60 * 1000
LIST_DEADLINE_S = 60.0


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
    racing_day = choose_racing_day(config.racing_day, datetime.now(UTC))
    log = get_logger(run_id=context.run_id)
    log.info("daily_initialization_start", nz_date=racing_day)
    began_s = time.monotonic()
    try:
        listed = racing_api.fetch_racing_day(racing_day, deadline_s=LIST_DEADLINE_S)
    except FetchError as error:
        log.error("daily_initialization_failed", nz_date=racing_day, error=error.message, retryable=error.retryable)
        raise dg.Failure(
            f"The meetings of {racing_day} could not be read: {error.message}", allow_retries=False
        ) from error
    chosen = select_meetings(listed, countries=settings.race_countries, categories=settings.race_categories)
    for rejected in listed.rejected:
        context.log.warning(f"Meeting {rejected.meeting_id or 'without id'} left out: {rejected.reason}")
    context.add_output_metadata(
        {
            "racing_day": racing_day.isoformat(),
            "fetch_ms": round(1000 * (time.monotonic() - began_s)),
            "meetings_listed": len(listed.meetings),
            "meetings": len(chosen.meetings),
            "races": len(chosen.races),
            "rejected": len(listed.rejected),
        }
    )
    return chosen


@dg.op(
    description="Stores the day's meetings and races, registers each race as a partition and sends it to be polled.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch)},
)
def write_meetings(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[str]]:
    race_ids = [race.race_id for race in sorted(day.races, key=lambda race: (race.start_time, race.race_id))]
    began_s = time.monotonic()
    with failing_plainly():
        created = race_store.ensure_partitions([day.racing_day])
        counts = race_store.write_racing_day(day)
    context.instance.add_dynamic_partitions(RACES, race_ids)
    write_ms = round(1000 * (time.monotonic() - began_s))
    get_logger(run_id=context.run_id).info(
        "daily_initialization_complete",
        nz_date=day.racing_day,
        meetings=len(day.meetings),
        races=len(race_ids),
        row_counts=counts.model_dump(),
        duration_ms=write_ms,
    )
    metadata = {"write_ms": write_ms, "rows/meetings": counts.meetings, "rows/races": counts.races}
    yield from send_races(
        context,
        race_ids,
        race_store,
        progress_board,
        budget_ms=BASELINE_BUDGET_MS,
        metadata={**metadata, "history_partitions_created": created},
    )


def choose_racing_day(asked_for: str, now: datetime) -> date:
    """The racing day of a run's config; without one, the date in New Zealand at ``now``.

    Raises:
        dagster.Failure: What was asked for is no date.
    """
    if not asked_for:
        return now.astimezone(NEW_ZEALAND).date()
    try:
        return date.fromisoformat(asked_for)
    except ValueError:
        raise dg.Failure(f"racing_day must be a date like 2026-01-31, not {asked_for!r}", allow_retries=False) from None
