"""The state of the day's meetings between polls: one list, what changed in it, and the alert for overdue races."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from raceday_dagster.defs.assets import report_settled
from raceday_dagster.defs.ops.day import build_list_op, order_races, reporting_failure
from raceday_dagster.defs.partitions import register_races
from raceday_dagster.defs.reporting import build_row
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_current_racing_day
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import OverdueRace, is_listed, read_overdue_races, read_race_keys
from raceday_dagster.store.race_store import RaceStore

FAILED = "meeting_status_failed"


fetch_meeting_status = build_list_op(
    "fetch_meeting_status",
    "Meetings and races of the racing day as they stand now.",
    failed=FAILED,
    priority=2,
)


@dg.op(
    description="Stores what changed in a loaded day: statuses, starts, track, weather, races that were added. A day "
    "that is not loaded is left to daily_baseline.",
    tags={"dagster/priority": "2"},
)
def update_meetings(context: dg.OpExecutionContext, day: RacingDay, race_store: dg.ResourceParam[RaceStore]) -> None:
    began_s = time.monotonic()
    with reporting_failure(context, FAILED, day.racing_day):
        # A list stored here first would pass for a baseline that ran.
        if not race_store.read(is_listed, day.racing_day):
            context.log.info(f"{day.racing_day} is not loaded: daily_baseline does that")
            context.add_output_metadata({"loaded": False, "changed_meetings": 0, "changed_races": 0})
            return
        counts = race_store.write_racing_day(day)
        keys = race_store.read(read_race_keys, order_races(day))
    registered = register_races(context.instance, keys.values())
    report_settled(context, race_store, order_races(day))
    changed = {"changed_meetings": counts.meetings, "changed_races": counts.races, "partitions_registered": registered}
    write_ms = round(1000 * (time.monotonic() - began_s))
    get_logger(run_id=context.run_id).info(
        "meeting_status_complete", nz_date=day.racing_day, **changed, duration_ms=write_ms
    )
    context.add_output_metadata({"loaded": True, **changed, "write_ms": write_ms})


# Every run names all of them. A race named once only, when it crosses the line, would be lost with a missed tick, and
# to remember who was named is a state that can be wrong; an alert that repeats until its cause is gone is neither.
# Nothing joins it to the others: when the list cannot be read, most races become overdue.
@dg.op(
    description="Raises the alert for races that are not over two hours after their start, for a week.",
    tags={"dagster/priority": "1"},
)
def report_overdue_races(
    context: dg.OpExecutionContext,
    settings: dg.ResourceParam[Settings],
    race_store: dg.ResourceParam[RaceStore],
) -> None:
    now = datetime.now(UTC)
    with reporting_failure(context, FAILED, choose_current_racing_day(now)):
        overdue = race_store.read(
            read_overdue_races, now, countries=settings.race_countries, categories=settings.race_categories
        )
    if overdue:
        described = [describe_overdue(race, now) for race in overdue]
        get_logger(run_id=context.run_id).error("race_unfinished", count=len(overdue), races=described)
        context.log.error(f"Not over two hours after the start: {', '.join(map(_name, overdue))}")
    context.add_output_metadata(
        {"overdue": len(overdue), "overdue_races": dg.MetadataValue.md(build_table(overdue, now))}
    )


def describe_overdue(race: OverdueRace, now: datetime) -> dict[str, object]:
    """An overdue race, for the log."""
    return {
        "race_id": race.race_id,
        "start": race.start_time,
        "hours": _count_hours(race, now),
        "status": race.status,
    }


def build_table(races: Sequence[OverdueRace], now: datetime) -> str:
    """A Markdown table of overdue races, the longest overdue first."""
    if not races:
        return "none"
    head = "| race | meeting | number | start, New Zealand | hours ago | status |\n|---|---|--:|---|--:|---|\n"
    rows = (
        (
            *(race.race_id, race.meeting_name, race.race_number),
            *(f"{race.start_time.astimezone(NEW_ZEALAND):%a %H:%M}", _count_hours(race, now), race.status),
        )
        for race in races
    )
    return head + "".join(map(build_row, rows))


def _name(race: OverdueRace) -> str:
    return f"{race.race_id} ({race.meeting_name} {race.race_number}, {race.status})"


def _count_hours(race: OverdueRace, now: datetime) -> float:
    return round((now - race.start_time) / timedelta(hours=1), 1)
