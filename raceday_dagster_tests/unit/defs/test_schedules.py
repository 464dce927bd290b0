"""The schedules: what a tick asks for, and when ticks are, also on both nights that change the clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import time_machine
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._utils.schedules import schedule_execution_time_iterator  # what the daemon finds ticks with

from raceday_dagster.definitions import defs
from raceday_dagster.defs.automation.schedules import SCHEDULES
from raceday_dagster.defs.jobs import JOBS
from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.racing.first_load import GRACE, is_schedules_turn

BACK, FORWARD, ORDINARY = date(2027, 4, 4), date(2026, 9, 27), date(2026, 7, 15)
"""The day whose night has 25 hours, the one whose night has 23, and one like any other."""
SECOND = timedelta(seconds=1)
BY_NAME = {schedule.name: schedule for schedule in SCHEDULES}


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=NEW_ZEALAND).astimezone(UTC)


def tick(name: str, scheduled_at: datetime, *, late: timedelta = timedelta(0)) -> Any:
    context = dg.build_schedule_context(scheduled_execution_time=scheduled_at)
    with time_machine.travel(scheduled_at + late, tick=False):
        return BY_NAME[name](context)


def evaluate(name: str, scheduled_at: datetime) -> dg.RunRequest:
    asked = tick(name, scheduled_at)
    assert isinstance(asked, dg.RunRequest)
    return asked


def read_day(asked: dg.RunRequest) -> Any:
    return asked.run_config["ops"]["fetch_meetings"]["config"]["racing_day"]


def list_ticks(name: str, day: date) -> list[datetime]:
    """Ticks on a calendar day of New Zealand, as its clock shows them."""
    schedule = BY_NAME[name]
    begins, ends = at(day, 0), at(day + timedelta(days=1), 0)
    assert isinstance(schedule.cron_schedule, str)
    ticks: list[datetime] = []
    for tick in schedule_execution_time_iterator(
        begins.timestamp(), schedule.cron_schedule, schedule.execution_timezone
    ):
        if tick >= ends:
            return ticks
        ticks.append(tick.astimezone(NEW_ZEALAND))
    raise AssertionError("a cron has no end")


def test_every_schedule_but_that_of_images_is_on_from_the_start_and_all_keep_new_zealands_clock() -> None:
    assert set(BY_NAME) == set(TICKS)
    assert [name for name, schedule in BY_NAME.items() if schedule.default_status.value != "RUNNING"] == [
        "process_images_schedule"
    ], "a vision API may cost money"
    for name, schedule in BY_NAME.items():
        assert schedule.execution_timezone == "Pacific/Auckland"
        assert name == f"{schedule.job_name}_schedule"
        assert schedule.description


TICKS = {
    "maintenance_schedule": [(4, 0)],
    "daily_baseline_schedule": [(6, 0)],
    "process_images_schedule": [(6, 30)],  # after the baseline
    "evening_backfill_schedule": [(21, 0)],
    "data_checks_schedule": [(hour, 50) for hour in (0, 1, *range(9, 24))],
    "meeting_status_schedule": [(hour, minute) for hour in (0, 1, *range(6, 24)) for minute in (0, 15, 30, 45)],
}
"""None is in the hour from 02:00, which two nights skip or repeat."""


@pytest.mark.parametrize("day", [ORDINARY, BACK, FORWARD])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_schedule_fires_at_its_times_and_once_at_each(name: str, day: date) -> None:
    ticks = list_ticks(name, day)
    assert [(tick.date(), tick.hour, tick.minute) for tick in ticks] == [(day, *clock) for clock in TICKS[name]]
    assert len({tick.timestamp() for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("day", [ORDINARY, BACK, FORWARD])
def test_morning_and_evening_ask_for_their_own_day(day: date) -> None:
    assert read_day(evaluate("daily_baseline_schedule", at(day, 6))) == day.isoformat()
    assert read_day(evaluate("evening_backfill_schedule", at(day, 21))) == day.isoformat()
    silks = evaluate("process_images_schedule", at(day, 6, 30)).run_config
    assert silks == {"ops": {"select_images": {"config": {"racing_day": day.isoformat()}}}}


@pytest.mark.parametrize("day", [ORDINARY, BACK, FORWARD])
def test_a_morning_that_is_made_up_for_is_the_sensors(day: date) -> None:
    """Either the schedule loads the day or `first_baseline`, at no moment both and at none neither."""
    six = at(day, 6)
    for late in (timedelta(0), GRACE - SECOND, GRACE + SECOND, timedelta(hours=3)):
        asked = tick("daily_baseline_schedule", six, late=late)
        assert isinstance(asked, dg.RunRequest) == is_schedules_turn(six + late)
    assert asked.skip_message == "Too late for 06:00: left to the sensor"
    for name in set(BY_NAME) - {"daily_baseline_schedule"}:
        assert isinstance(tick(name, six, late=timedelta(hours=3)), dg.RunRequest)


def test_what_the_day_needs_leaves_the_queue_before_a_backfill_by_hand() -> None:
    runs = [dg.DagsterRun(job_name=job.name, tags=job.tags) for job in JOBS if job.name != "process_races"]
    ordered = [run.job_name for run in QueuedRunCoordinatorDaemon(1)._priority_sort(runs)]
    assert set(ordered[:3]) == {"daily_baseline", "evening_backfill", "meeting_status"}
    assert set(ordered[3:6]) == {"maintenance", "process_images", "data_checks"}
    assert ordered[6:] == ["process_race"]


@pytest.mark.parametrize("day", [ORDINARY, BACK, FORWARD])
def test_meeting_status_stays_with_the_evening_after_midnight(day: date) -> None:
    before = (day - timedelta(days=1)).isoformat()
    assert [read_day(evaluate("meeting_status_schedule", at(day, *clock))) for clock in ((0, 0), (1, 45), (6, 0))] == [
        before,
        before,
        day.isoformat(),
    ]


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_repeated_tick_asks_for_the_same_run_and_the_next_one_for_another(name: str) -> None:
    first, *others = list_ticks(name, ORDINARY) + list_ticks(name, BACK)
    assert evaluate(name, first).run_key == evaluate(name, first.astimezone(UTC)).run_key
    keys = {evaluate(name, tick).run_key for tick in (first, *others)}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_what_a_tick_asks_for_is_a_config_its_job_takes(name: str) -> None:
    schedule = BY_NAME[name]
    job = defs.resolve_job_def(schedule.job_name)
    assert dg.validate_run_config(job, evaluate(name, at(ORDINARY, 6)).run_config)
