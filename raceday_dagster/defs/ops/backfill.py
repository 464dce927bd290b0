"""The end of a racing day: what its races left open is asked once more, and races that were missed are found."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from raceday_dagster.defs.ops.batch import Batch, send_races
from raceday_dagster.defs.ops.day import DAY_BUDGET_MS
from raceday_dagster.defs.ops.day_list import (
    RacingDayUnderWay,
    choose_racing_day,
    fetch_day,
    order_races,
    register_races,
    reporting_failure,
)
from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.racing.outcomes import ProcessResult
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import REASONS
from raceday_dagster.store.race_store import RaceStore

FAILED = "evening_backfill_failed"


class Backfill(Record):
    """What the end of a backfill must know of its beginning."""

    racing_day: date
    meetings: int
    races: int
    """Listed on the day; asked about again are those that are not settled."""
    started_s: float
    """Reading of ``time.monotonic``."""


@dg.op(description="Meetings and races of the racing day once more: statuses, and races that were missed.")
def fetch_evening_meetings(
    context: dg.OpExecutionContext,
    config: RacingDayUnderWay,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
) -> RacingDay:
    racing_day = choose_racing_day(config.racing_day, choose_current_racing_day(datetime.now(UTC)))
    get_logger(run_id=context.run_id).info("evening_backfill_start", nz_date=racing_day)
    return fetch_day(context, racing_day, settings, racing_api, failed=FAILED)


@dg.op(
    description="Stores the list, registers new races as partitions, and sends every race of the day and of the day "
    "before that has started and is not settled to be polled, with those of the last week that are not over.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch), "backfill": dg.Out(Backfill)},
)
def select_unsettled_races(
    context: dg.OpExecutionContext,
    day: RacingDay,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.Output[Backfill] | dg.DynamicOutput[str]]:
    listed = order_races(day)
    began_s = time.monotonic()
    day_before = day.racing_day - timedelta(days=1)
    with reporting_failure(context, FAILED, day.racing_day):
        race_store.ensure_partitions([day_before, day.racing_day])
        counts = race_store.write_racing_day(day)
        unsettled = race_store.read_races_to_recheck([day_before, day.racing_day], day.generated_at)
    race_ids = [race.race_id for race in unsettled]
    registered = register_races(context.instance, [*listed, *race_ids])
    found = Counter(race.reason for race in unsettled)
    why = ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])
    context.log.info(f"{len(race_ids)} races are not settled{f': {why}' if why else ''}")
    yield dg.Output(
        Backfill(racing_day=day.racing_day, meetings=len(day.meetings), races=len(listed), started_s=began_s),
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
    context: dg.OpExecutionContext, backfill: Backfill, races: list[ProcessResult]
) -> dg.Output[None]:
    failed = [race.race_id for race in races if race.status == "failed"]
    log = get_logger(run_id=context.run_id)
    say, event = (
        (log.error, FAILED) if failed and len(failed) == len(races) else (log.info, "evening_backfill_complete")
    )
    say(
        event,
        nz_date=backfill.racing_day,
        meetings=backfill.meetings,
        races=backfill.races,
        polled=len(races),
        failed=failed,
        duration_ms=round(1000 * (time.monotonic() - backfill.started_s)),
    )
    return dg.Output(None, metadata={"polled": len(races), "failed": len(failed)})
