"""A racing day from its list: ``daily_baseline`` loads it in the morning, ``evening_backfill`` completes it.

Belongs here: which day, what its list says, and which races are polled because of it. What ``meetings`` does with the
same list every quarter of an hour is there.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.ops.batch import Batch, send_races
from raceday_dagster.defs.partitions import register_races
from raceday_dagster.defs.reporting import ProgressBoard
from raceday_dagster.errors import PipelineError, RacedayError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_current_racing_day, choose_today
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.racing.outcomes import ProcessResult
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import REASONS
from raceday_dagster.store.race_store import RaceStore

DAY_BUDGET_MS = 15 * 60 * 1000
LIST_DEADLINE_S = 60.0
BASELINE_FAILED = "daily_initialization_failed"
BACKFILL_FAILED = "evening_backfill_failed"


class FetchMeetings(dg.Config):
    """Which racing day to load."""

    racing_day: str = Field(
        default="", description="The racing day, YYYY-MM-DD as the TAB labels it. Empty: today in New Zealand."
    )


class RacingDayUnderWay(dg.Config):
    """Which racing day, unless it is the present one."""

    racing_day: str = Field(
        default="",
        description="The racing day, YYYY-MM-DD as the TAB labels it. Empty: the one under way, which in New Zealand "
        "turns at 06:00.",
    )


class DayLoad(Record):
    """What the end of a day's load or backfill must know of its beginning."""

    racing_day: date
    meetings: int
    races: int
    """Listed on the day, whether they are asked about again or not."""
    started_s: float
    """Reading of ``time.monotonic``."""


# What the jobs that begin with a day's list do alike.


def build_day_config(racing_day: date, op: str = "fetch_meetings") -> dict[str, Any]:
    """Run config that names the racing day; in each of these jobs the same one, but for the ``op`` that takes it."""
    return {"ops": {op: {"config": {"racing_day": racing_day.isoformat()}}}}


def parse_racing_day(text: str, default: date) -> date:
    """The racing day of a run's config, ``default`` without one.

    Raises:
        dagster.Failure: What was given is no date.
    """
    if not text:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise dg.Failure(f"racing_day must be a date like 2026-01-31, not {text!r}", allow_retries=False) from None


@contextmanager
def reporting_failure(context: dg.OpExecutionContext, event: str, racing_day: date, what: str = "") -> Iterator[None]:
    """For steps whose failure is an event of its own: one line in the log, and the step fails with one line, which
    begins with ``what`` could not be done.

    Raises:
        dagster.Failure: Instead of any error of ours.
    """
    try:
        yield
    except RacedayError as error:
        retryable = isinstance(error, PipelineError) and error.retryable
        get_logger(run_id=context.run_id).error(event, nz_date=racing_day, error=str(error), retryable=retryable)
        raise dg.Failure(f"{what}: {error}" if what else str(error), allow_retries=False) from error


def fetch_day(
    context: dg.OpExecutionContext, racing_day: date, settings: Settings, racing_api: RacingApi, *, failed: str
) -> RacingDay:
    """The day's list as the settings filter it, with its figures as output metadata; ``failed`` is the event that says
    it could not be read.

    Raises:
        dagster.Failure: The list could not be read.
    """
    began_s = time.monotonic()
    with reporting_failure(context, failed, racing_day, f"The meetings of {racing_day} could not be read"):
        listed = racing_api.fetch_racing_day(racing_day, deadline_s=LIST_DEADLINE_S)
    chosen = listed.select_meetings(countries=settings.race_countries, categories=settings.race_categories)
    for rejected in listed.rejected:
        context.log.warning(f"Meeting {rejected.meeting_id or 'without id'} left out: {rejected.reason}")
    if listed.dropped:
        context.log.warning(f"Unreadable fields of the list, left as stored: {', '.join(listed.dropped[:20])}")
    context.add_output_metadata(
        {
            "racing_day": racing_day.isoformat(),
            "fetch_ms": round(1000 * (time.monotonic() - began_s)),
            "meetings_listed": len(listed.meetings),
            "meetings": len(chosen.meetings),
            "races": len(chosen.races),
            "rejected": len(listed.rejected),
            "dropped_fields": len(listed.dropped),
        }
    )
    return chosen


def order_races(day: RacingDay) -> list[str]:
    """Ids of the day's races, the earliest start first."""
    return [race.race_id for race in sorted(day.races, key=lambda race: (race.start_time, race.race_id))]


# The morning: `daily_baseline`.


@dg.op(description="Meetings and races of a racing day, every page of the list, as the settings filter them.")
def fetch_meetings(
    context: dg.OpExecutionContext,
    config: FetchMeetings,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
) -> RacingDay:
    racing_day = parse_racing_day(config.racing_day, choose_today(datetime.now(UTC)))
    get_logger(run_id=context.run_id).info("daily_initialization_start", nz_date=racing_day)
    return fetch_day(context, racing_day, settings, racing_api, failed=BASELINE_FAILED)


@dg.op(
    description="Stores the day's meetings and races, registers each race as a partition and sends it to be polled, "
    "with the races of the day before that are not complete and those of the last week that are not over.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch), "load": dg.Out(DayLoad)},
)
def write_meetings(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.Output[DayLoad] | dg.DynamicOutput[str]]:
    listed = order_races(day)
    day_before = day.racing_day - timedelta(days=1)
    began_s = time.monotonic()
    with reporting_failure(context, BASELINE_FAILED, day.racing_day):
        created = race_store.ensure_partitions([day.racing_day])
        counts = race_store.write_racing_day(day)
        reread = race_store.read_races_to_recheck([day_before], day.generated_at)
        race_ids = list(dict.fromkeys([*listed, *(race.race_id for race in reread)]))
        keys = race_store.read_race_keys(race_ids)
    registered = register_races(context.instance, keys.values())
    write_ms = round(1000 * (time.monotonic() - began_s))
    if not listed:
        get_logger(run_id=context.run_id).error(
            "daily_initialization_empty", nz_date=day.racing_day, meetings=len(day.meetings)
        )
        context.log.error(f"No race is listed for {day.racing_day}: it is not loaded, and first_baseline tries again")
    yield dg.Output(
        DayLoad(racing_day=day.racing_day, meetings=len(day.meetings), races=len(listed), started_s=began_s), "load"
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
            "reread": len(reread),
        },
    )


# The evening: `evening_backfill`.


@dg.op(description="Meetings and races of the racing day once more: statuses, and races that were missed.")
def fetch_evening_meetings(
    context: dg.OpExecutionContext,
    config: RacingDayUnderWay,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
) -> RacingDay:
    racing_day = parse_racing_day(config.racing_day, choose_current_racing_day(datetime.now(UTC)))
    get_logger(run_id=context.run_id).info("evening_backfill_start", nz_date=racing_day)
    return fetch_day(context, racing_day, settings, racing_api, failed=BACKFILL_FAILED)


@dg.op(
    description="Stores the list, registers new races as partitions, and sends every race of the day and of the day "
    "before that has started and is not complete to be polled, with those of the last week that are not over.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch), "backfill": dg.Out(DayLoad)},
)
def select_unsettled_races(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.Output[DayLoad] | dg.DynamicOutput[str]]:
    listed = order_races(day)
    began_s = time.monotonic()
    day_before = day.racing_day - timedelta(days=1)
    with reporting_failure(context, BACKFILL_FAILED, day.racing_day):
        race_store.ensure_partitions([day_before, day.racing_day])
        counts = race_store.write_racing_day(day)
        chosen = race_store.read_races_to_recheck([day_before, day.racing_day], day.generated_at)
        race_ids = [race.race_id for race in chosen]
        keys = race_store.read_race_keys([*listed, *race_ids])
    registered = register_races(context.instance, keys.values())
    found = Counter(race.reason for race in chosen)
    why = ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])
    context.log.info(f"{len(race_ids)} races are not complete{f': {why}' if why else ''}")
    yield dg.Output(
        DayLoad(racing_day=day.racing_day, meetings=len(day.meetings), races=len(listed), started_s=began_s),
        "backfill",
    )
    yield from send_races(
        context,
        race_ids,
        race_store,
        progress_board,
        budget_ms=DAY_BUDGET_MS,
        metadata={
            "rows/meetings": counts.meetings,
            "rows/races": counts.races,
            "partitions_registered": registered,
            **{f"chosen/{reason}": found[reason] for reason in REASONS},
        },
    )


@dg.op(description="Says what the backfill came to.")
def report_evening_backfill(
    context: dg.OpExecutionContext, backfill: DayLoad, races: list[ProcessResult]
) -> dg.Output[None]:
    return report_day(context, backfill, races, complete="evening_backfill_complete", failure=BACKFILL_FAILED)


@dg.op(description="Says what the load of the day came to, when its races were polled.")
def report_daily_baseline(context: dg.OpExecutionContext, load: DayLoad, races: list[ProcessResult]) -> dg.Output[None]:
    return report_day(context, load, races, complete="daily_initialization_complete", failure=BASELINE_FAILED)


def report_day(
    context: dg.OpExecutionContext, load: DayLoad, races: list[ProcessResult], *, complete: str, failure: str
) -> dg.Output[None]:
    """The event that ends a day's load or backfill: ``failure`` when every race of it failed, else ``complete``."""
    failed = [race.race_id for race in races if race.status == "failed"]
    log = get_logger(run_id=context.run_id)
    all_failed = bool(failed) and len(failed) == len(races)
    say, event = (log.error, failure) if all_failed else (log.info, complete)
    say(
        event,
        nz_date=load.racing_day,
        meetings=load.meetings,
        races=load.races,
        polled=len(races),
        entrants=sum(race.row_counts.entrants for race in races),
        failed=failed,
        duration_ms=round(1000 * (time.monotonic() - load.started_s)),
    )
    return dg.Output(None, metadata={"polled": len(races), "failed": len(failed)})
