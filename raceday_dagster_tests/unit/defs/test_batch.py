"""Both ends of a batch: the wait between an early launch and the moment its races fall due, and when its run is red."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raceday_dagster.defs.ops.batch import (
    HEAD_START,
    LONGEST_WAIT_S,
    FailRunWhen,
    find_request_time,
    is_failed,
    parse_due_at,
    wait_until,
)
from raceday_dagster_tests.unit.racing.test_outcomes import end_batch, end_race

NOW = datetime(2026, 9, 26, 2, 0, tzinfo=UTC)


class Clock:
    """Stands still until somebody sleeps; may run slower than the sleeper thinks."""

    def __init__(self, pace: float = 1.0) -> None:
        self.now, self.pace, self.slept = NOW, pace, list[float]()

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds * self.pace)


def wait(clock: Clock, ahead_s: float) -> dict[str, int | str]:
    said = wait_until(NOW + timedelta(seconds=ahead_s), clock=clock, sleep=clock.sleep)
    assert said.pop("due_at") == (NOW + timedelta(seconds=ahead_s)).isoformat()
    return said


def test_a_batch_waits_until_its_races_are_due() -> None:
    clock = Clock()
    assert wait(clock, 0.6) == {"waited_ms": 600, "behind_due_ms": 0}
    assert clock.slept == [0.6]


def test_a_batch_never_begins_early_though_its_clock_is_slow() -> None:
    clock = Clock(pace=0.5)
    wait(clock, 1.0)
    assert clock.now >= NOW + timedelta(seconds=1)
    assert 1 < len(clock.slept) < 20


@pytest.mark.parametrize(("ahead_s", "behind_ms"), [(0, 0), (-0.25, 250)])
def test_a_batch_that_comes_late_does_not_wait_and_says_how_late(ahead_s: float, behind_ms: int) -> None:
    clock = Clock()
    assert wait(clock, ahead_s) == {"waited_ms": 0, "behind_due_ms": behind_ms}
    assert clock.slept == []


@pytest.mark.parametrize("pace", [1.0, 0.0, -1.0])
def test_no_instant_and_no_clock_make_it_wait_longer_than_it_may(pace: float) -> None:
    clock = Clock(pace)
    assert wait(clock, 3_600)["waited_ms"] == 1_000 * LONGEST_WAIT_S
    assert sum(clock.slept) == LONGEST_WAIT_S


@pytest.mark.parametrize(
    ("selection", "waits"),
    [
        ({"live_races": 2}, [False, False, True]),
        ({"live_races": 3}, [False, False, False]),
        ({"live_races": 0}, [False, False, False]),
        ({}, [False, False, False]),
        ({"live_races": 1, "due_at": ""}, [False, False, False]),
        ({"live_races": 1, "race_ids": []}, [True, True, True]),
    ],
)
def test_a_race_leaves_those_in_their_last_minutes_a_head_start(selection: dict[str, Any], waits: list[bool]) -> None:
    config = {"race_ids": ["a", "b", "c"], "due_at": NOW.isoformat(), **selection}
    asked = [find_request_time({"ops": {"select_races": {"config": config}}}, race_id) for race_id in "abc"]
    assert asked == [NOW + HEAD_START if wait else None for wait in waits]


def test_a_race_of_a_run_without_a_selection_is_asked_about_at_once() -> None:
    assert find_request_time({}, "a") is None


@pytest.mark.parametrize("text", ["2026-09-26T02:00:00+00:00", "2026-09-26T02:00:00Z", "2026-09-26T14:00:00+12:00"])
def test_an_instant_may_be_written_in_any_zone(text: str) -> None:
    assert parse_due_at(text) == NOW


def test_without_an_instant_there_is_none() -> None:
    assert parse_due_at("") is None


@pytest.mark.parametrize("text", ["soon", "2026-09-26T02:00:00", "2026-09-26", "02:00"])
def test_what_is_no_instant_with_a_zone_is_refused_plainly(text: str) -> None:
    with pytest.raises(dg.Failure, match="due_at must be an instant with its zone") as refusal:
        parse_due_at(text)
    assert refusal.value.allow_retries is False


@pytest.mark.parametrize(
    ("statuses", "policy", "failed"),
    [
        ((), FailRunWhen.all, False),
        ((), FailRunWhen.any, False),
        (("failed", "failed"), FailRunWhen.all, True),
        (("failed", "failed"), FailRunWhen.never, False),
        (("failed", "success"), FailRunWhen.all, False),
        (("failed", "success"), FailRunWhen.any, True),
        (("failed", "skipped"), FailRunWhen.all, True),
        (("unknown", "unknown"), FailRunWhen.all, True),
        (("unknown", "unknown"), FailRunWhen.any, True),
        (("unknown", "unknown"), FailRunWhen.never, False),
        (("unknown", "success"), FailRunWhen.any, False),
        (("skipped", "skipped"), FailRunWhen.all, False),
        (("skipped", "success"), FailRunWhen.any, False),
    ],
)
def test_a_run_is_red_as_its_policy_says(statuses: tuple[str, ...], policy: FailRunWhen, failed: bool) -> None:
    outcome = end_batch(*(end_race(str(number), status) for number, status in enumerate(statuses)))
    assert is_failed(outcome, policy) is failed
