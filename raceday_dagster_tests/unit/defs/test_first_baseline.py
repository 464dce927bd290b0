"""The tick of the sensor `first_baseline`, called as a function."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG
from raceday_dagster.defs.automation.sensors import request_first_load
from raceday_dagster.racing.first_load import LoadAttempt

SECOND = timedelta(seconds=1)
NOON = datetime(2026, 9, 26, 0, 2, tzinfo=UTC)  # in New Zealand
SIX = datetime(2026, 9, 25, 18, 0, tzinfo=UTC)
TODAY = date(2026, 9, 26)


@dataclass
class Load:
    """What is known of the loading of days."""

    listed: set[date] = field(default_factory=set)
    last: LoadAttempt | None = None

    def is_listed(self, racing_day: date) -> bool:
        return racing_day in self.listed

    def read_last_load(self) -> LoadAttempt | None:
        return self.last


def attempt(ago: timedelta, *, is_over: bool = True) -> LoadAttempt:
    return LoadAttempt(began_at=NOON - ago, is_over=is_over)


@pytest.mark.parametrize("last", [None, attempt(60 * SECOND), attempt(timedelta(days=1)), attempt(-SECOND)])
def test_a_day_that_nobody_loaded_is_loaded(last: LoadAttempt | None) -> None:
    asked = request_first_load(Load(last=last), NOON)
    assert isinstance(asked, dg.RunRequest)
    assert asked.run_config == {"ops": {"fetch_meetings": {"config": {"racing_day": "2026-09-26"}}}}
    assert LANE_TAG not in asked.tags


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (Load(listed={TODAY}), "2026-09-26 is loaded"),
        (Load(last=attempt(SECOND, is_over=False)), "a run of daily_baseline is not over"),
        (Load(last=attempt(timedelta(days=1), is_over=False)), "a run of daily_baseline is not over"),
        (Load(last=attempt(59 * SECOND)), "the last try began 59 s ago, the next follows after 60 s"),
    ],
)
def test_a_day_is_loaded_once_and_tried_again_in_its_time(known: Load, reason: str) -> None:
    skipped = request_first_load(known, NOON)
    assert isinstance(skipped, dg.SkipReason)
    assert reason in (skipped.skip_message or "")


def test_a_request_to_load_a_day_is_the_same_for_a_minute() -> None:
    keys = [
        request.run_key
        for after in (0, 30, 59, 60)
        if isinstance(request := request_first_load(Load(), NOON + after * SECOND), dg.RunRequest)
    ]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize(
    ("after_s", "day"), [(-1, "2026-09-25"), (0, None), (299, None), (300, "2026-09-26"), (64_800, "2026-09-26")]
)
def test_at_six_the_schedule_comes_first_and_until_then_the_day_before_counts(after_s: int, day: str | None) -> None:
    asked = request_first_load(Load(), SIX + after_s * SECOND)
    if day is None:
        assert isinstance(asked, dg.SkipReason)
    else:
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_config["ops"]["fetch_meetings"]["config"]["racing_day"] == day
