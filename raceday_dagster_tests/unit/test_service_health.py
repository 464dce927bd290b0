"""The verdicts of `raceday health`, from what was read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from raceday_dagster.service.health import (
    Check,
    describe_age,
    is_healthy,
    is_late,
    judge_heartbeats,
    judge_polls,
    judge_sensor,
    judge_service,
)
from raceday_dagster.service.instance_lock import Holder
from raceday_dagster.write.live_polls import LiveRace

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)


def build_race(*, start_in_s: float, polled_ago_s: float | None, title: str = "Ellerslie R1") -> LiveRace:
    polled_at = None if polled_ago_s is None else NOW - timedelta(seconds=polled_ago_s)
    return LiveRace(race_id=title, title=title, start_time=NOW + timedelta(seconds=start_in_s), polled_at=polled_at)


def judge(*races: LiveRace, up_since: datetime | None = LONG_AGO) -> list[Check]:
    return list(judge_polls(races, NOW, up_since))


@pytest.mark.parametrize(
    ("start_in_s", "polled_ago_s", "late"),
    [
        (120, 15, False),
        (120, 30, False),
        (120, 31, True),
        (-600, 30, False),
        (-600, 31, True),
        (280, 45, False),  # last polled 5 min 25 s before the start, when 30 s was its cadence
        (280, 46, True),
        (120, None, True),
    ],
)
def test_a_poll_is_late_after_its_interval_and_fifteen_seconds(
    start_in_s: float, polled_ago_s: float | None, late: bool
) -> None:
    assert is_late(build_race(start_in_s=start_in_s, polled_ago_s=polled_ago_s), NOW) is late


def test_a_late_race_fails_and_is_named_with_the_age_of_its_poll() -> None:
    (check,) = judge(
        build_race(start_in_s=60, polled_ago_s=90), build_race(start_in_s=90, polled_ago_s=5, title="B R2")
    )
    assert check.verdict == "FAIL"
    assert "Ellerslie R1 (polled 90 s ago)" in check.text
    assert "B R2" not in check.text


def test_a_service_that_has_just_started_is_only_warned_of() -> None:
    (check,) = judge(build_race(start_in_s=60, polled_ago_s=None), up_since=NOW - timedelta(seconds=20))
    assert check.verdict == "warning"
    assert is_healthy([check])


def test_no_live_race_is_fine() -> None:
    assert judge() == [Check("ok", "polls: no race is live (in its last 5 minutes, or started and not over)")]


def test_a_race_not_over_after_two_hours_is_named_and_fails_nothing() -> None:
    checks = judge(build_race(start_in_s=-7_200, polled_ago_s=900))
    assert [check.verdict for check in checks] == ["ok", "warning"]
    assert "Ellerslie R1" in checks[1].text
    assert is_healthy(checks)


def test_many_late_races_are_not_all_named() -> None:
    races = [build_race(start_in_s=60, polled_ago_s=None, title=f"A R{number}") for number in range(9)]
    (check,) = judge(*races)
    assert "A R4 (never polled) and 4 more" in check.text


def test_every_daemon_must_have_given_a_sign_of_life_within_75_seconds() -> None:
    beats = {"SENSOR": NOW - timedelta(seconds=75), "SCHEDULER": NOW}
    assert judge_heartbeats(beats, NOW).verdict == "ok"
    assert judge_heartbeats({**beats, "SENSOR": NOW - timedelta(seconds=76)}, NOW).text.startswith(
        "daemon: no heartbeat of SENSOR (76 s ago)"
    )
    assert "MONITORING (never seen)" in judge_heartbeats({**beats, "MONITORING": None}, NOW).text


@pytest.mark.parametrize(
    ("status", "verdict"), [("RUNNING", "ok"), ("DECLARED_IN_CODE", "ok"), ("STOPPED", "FAIL"), (None, "FAIL")]
)
def test_the_sensor_must_be_on(status: str | None, verdict: str) -> None:
    assert judge_sensor(status).verdict == verdict


def test_nobody_holding_the_lock_fails() -> None:
    assert judge_service(None).verdict == "FAIL"
    assert str(judge_service(Holder("raceday up, pid 7 on h", NOW))) == (
        "ok      service: raceday up, pid 7 on h, since 2026-03-01 03:00:00 UTC"
    )


@pytest.mark.parametrize(("seconds", "said"), [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h")])
def test_an_age_is_said_in_one_unit(seconds: int, said: str) -> None:
    assert describe_age(timedelta(seconds=seconds)) == said
