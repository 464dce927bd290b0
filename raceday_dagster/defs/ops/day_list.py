"""How the jobs that begin with a racing day's list take it in: which day, what it says, and its races as partitions.

What belongs here: what daily_baseline, evening_backfill and meeting_status do alike. What does not: what they do next.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.partitions import RACES
from raceday_dagster.errors import PipelineError, RacedayError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.settings import Settings

LIST_DEADLINE_S = 60.0


class RacingDayUnderWay(dg.Config):
    """Which racing day, unless it is the present one."""

    racing_day: str = Field(
        default="",
        description="The racing day, YYYY-MM-DD as the TAB labels it. Empty: the one under way, which in New Zealand "
        "turns at 06:00.",
    )


def build_day_config(racing_day: date) -> dict[str, Any]:
    """Run config that names the racing day; in each of these jobs the same one."""
    return {"ops": {"fetch_meetings": {"config": {"racing_day": racing_day.isoformat()}}}}


def choose_racing_day(asked_for: str, otherwise: date) -> date:
    """The racing day of a run's config, ``otherwise`` the given one.

    Raises:
        dagster.Failure: What was asked for is no date.
    """
    if not asked_for:
        return otherwise
    try:
        return date.fromisoformat(asked_for)
    except ValueError:
        raise dg.Failure(f"racing_day must be a date like 2026-01-31, not {asked_for!r}", allow_retries=False) from None


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


def order_races(day: RacingDay) -> list[str]:
    """Ids of the day's races, the earliest start first."""
    return [race.race_id for race in sorted(day.races, key=lambda race: (race.start_time, race.race_id))]


def register_races(instance: dg.DagsterInstance, race_ids: Iterable[str]) -> int:
    """Makes a partition of every race that is none yet; returns how many."""
    known = set(instance.get_dynamic_partitions(RACES))
    added = [race_id for race_id in dict.fromkeys(race_ids) if race_id not in known]
    if added:
        instance.add_dynamic_partitions(RACES, added)
    return len(added)
