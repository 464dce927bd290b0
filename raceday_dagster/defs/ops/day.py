"""A racing day from its list: ``daily_baseline`` loads it in the morning, ``evening_backfill`` completes it.

Belongs here: which day, what its list says, and which races are polled because of it. What ``meetings`` does with the
same list every quarter of an hour is there.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.ops.batch import Batch, send_races
from raceday_dagster.defs.partitions import register_races
from raceday_dagster.defs.reporting import ProgressBoard
from raceday_dagster.errors import PipelineError, RacedayError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.racing.outcomes import ProcessResult
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import REASONS, read_race_keys, read_races_to_recheck
from raceday_dagster.store.race_store import RaceStore

DAY_BUDGET_MS = 15 * 60 * 1000
LIST_DEADLINE_S = 60.0


class ChosenDay(dg.Config):
    """Which racing day."""

    racing_day: str = Field(
        default="",
        description="The racing day, YYYY-MM-DD as the TAB labels it. Empty: the one under way, which turns at 06:00 "
        "in New Zealand.",
    )


class DayEvents(Record):
    """The log events of a job that loads or completes a day."""

    start: str
    complete: str
    failed: str
    empty: str | None = None
    """Instead of ``complete`` where a list without a race of ours is no loaded day."""


BASELINE = DayEvents(
    start="daily_initialization_start",
    complete="daily_initialization_complete",
    failed="daily_initialization_failed",
    empty="daily_initialization_empty",
)
BACKFILL = DayEvents(
    start="evening_backfill_start", complete="evening_backfill_complete", failed="evening_backfill_failed"
)


class DayLoad(Record):
    """What the end of a day's load or backfill must know of its beginning."""

    events: DayEvents
    racing_day: date
    meetings: int
    races: int
    """Listed on the day, whether they are asked about again or not."""
    started_s: float
    """Reading of ``time.monotonic``."""


DayOutput: TypeAlias = dg.Output[Batch] | dg.Output[DayLoad] | dg.DynamicOutput[str]


def build_day_config(racing_day: date, op: str = "fetch_meetings") -> dict[str, Any]:
    """Run config that names the racing day; in each of these jobs the same one, but for the ``op`` that takes it."""
    return {"ops": {op: {"config": {"racing_day": racing_day.isoformat()}}}}


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


def build_list_op(
    name: str,
    description: str,
    *,
    failed: str,
    start: str = "",
    priority: int = 0,
) -> dg.OpDefinition:
    """An op that reads a day's list as the settings filter it, with its figures as output metadata.

    Args:
        name: The op's; every job calls its own ``fetch_meetings``, where its config names the day.
        description: For the UI.
        failed: The event that says that the list could not be read.
        start: The event with which the op begins; none if empty.
        priority: Of the step.
    """

    @dg.op(name=name, description=description, tags={"dagster/priority": str(priority)})
    def fetch_list(
        context: dg.OpExecutionContext,
        config: ChosenDay,
        settings: dg.ResourceParam[Settings],
        racing_api: dg.ResourceParam[RacingApi],
    ) -> RacingDay:
        racing_day = parse_racing_day(config.racing_day, choose_current_racing_day(datetime.now(UTC)))
        if start:
            get_logger(run_id=context.run_id).info(start, nz_date=racing_day)
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

    return fetch_list


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


def order_races(day: RacingDay) -> list[str]:
    """Ids of the day's races, the earliest start first."""
    return [race.race_id for race in sorted(day.races, key=lambda race: (race.start_time, race.race_id))]


fetch_meetings = build_list_op(
    "fetch_meetings",
    "Meetings and races of a racing day, every page of the list, as the settings filter them.",
    start=BASELINE.start,
    failed=BASELINE.failed,
)
fetch_evening_meetings = build_list_op(
    "fetch_evening_meetings",
    "Meetings and races of the racing day once more: statuses, and races that were missed.",
    start=BACKFILL.start,
    failed=BACKFILL.failed,
)


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
) -> Iterator[DayOutput]:
    began_s = time.monotonic()
    listed = order_races(day)
    with reporting_failure(context, BASELINE.failed, day.racing_day):
        created = race_store.ensure_partitions([day.racing_day])
        counts = race_store.write_racing_day(day)
        reread = race_store.read(read_races_to_recheck, [day.racing_day - timedelta(days=1)], day.generated_at)
        race_ids = list(dict.fromkeys([*listed, *reread]))
        keys = race_store.read(read_race_keys, race_ids)
    metadata = {
        "rows/meetings": counts.meetings,
        "rows/races": counts.races,
        "history_partitions_created": created,
        "partitions_registered": register_races(context.instance, keys.values()),
        "reread": len(reread),
        "write_ms": round(1000 * (time.monotonic() - began_s)),
    }
    yield start_load(BASELINE, day, began_s)
    yield from send_races(context, race_ids, race_store, progress_board, budget_ms=DAY_BUDGET_MS, metadata=metadata)


@dg.op(
    description="Stores the list, registers new races as partitions, and sends every race of the day and of the day "
    "before that has started and is not complete to be polled, with those of the last week that are not over.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch), "load": dg.Out(DayLoad)},
)
def select_unsettled_races(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[DayOutput]:
    began_s = time.monotonic()
    day_before = day.racing_day - timedelta(days=1)
    with reporting_failure(context, BACKFILL.failed, day.racing_day):
        race_store.ensure_partitions([day_before])
        counts = race_store.write_racing_day(day)
        chosen = race_store.read(read_races_to_recheck, [day_before, day.racing_day], day.generated_at)
        race_ids = list(chosen)
        keys = race_store.read(read_race_keys, [*order_races(day), *race_ids])
    found = Counter(chosen.values())
    why = ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])
    context.log.info(f"{len(race_ids)} races are not complete{f': {why}' if why else ''}")
    metadata = {
        "rows/meetings": counts.meetings,
        "rows/races": counts.races,
        "partitions_registered": register_races(context.instance, keys.values()),
        **{f"chosen/{reason}": found[reason] for reason in REASONS},
    }
    yield start_load(BACKFILL, day, began_s)
    yield from send_races(context, race_ids, race_store, progress_board, budget_ms=DAY_BUDGET_MS, metadata=metadata)


def start_load(events: DayEvents, day: RacingDay, began_s: float) -> dg.Output[DayLoad]:
    """The output ``load``, which ``report_day`` takes up when the races were polled."""
    load = DayLoad(
        events=events, racing_day=day.racing_day, meetings=len(day.meetings), races=len(day.races), started_s=began_s
    )
    return dg.Output(load, "load")


@dg.op(description="Says what the load of the day, or its backfill, came to when its races were polled.")
def report_day(context: dg.OpExecutionContext, load: DayLoad, races: list[ProcessResult]) -> dg.Output[None]:
    failed = [race.race_id for race in races if race.status == "failed"]
    log = get_logger(run_id=context.run_id)
    all_failed = bool(failed) and len(failed) == len(races)
    say, event = (log.error, load.events.failed) if all_failed else (log.info, load.events.complete)
    if not load.races and load.events.empty:
        say, event = log.error, load.events.empty
        context.log.error(f"No race is listed for {load.racing_day}: it is not loaded, and first_baseline tries again")
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
