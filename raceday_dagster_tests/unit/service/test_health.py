"""The verdicts of `raceday health`, from what was read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from raceday_dagster.dagster_plugins.machines import Machine
from raceday_dagster.definitions import defs
from raceday_dagster.service.dagster_instance import HELPERS, SENSOR
from raceday_dagster.service.health import (
    Check,
    check_health,
    date_holder,
    describe_age,
    describe_health,
    is_healthy,
    judge_automation,
    judge_day,
    judge_heartbeats,
    judge_machines,
    judge_polls,
    judge_service,
)
from raceday_dagster.service.instance_lock import Holder
from raceday_dagster.service.service_files import ServiceState
from raceday_dagster.store.queries import FollowedRace

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)
JUST_NOW = NOW - timedelta(seconds=20)
START_ONE = "start `raceday worker` on one"
ALL_ON = dict.fromkeys((SENSOR, *HELPERS), "DECLARED_IN_CODE")


def build_race(
    *, start_in_s: float, polled_ago_s: float | None, title: str = "Ellerslie R1", error: str | None = None
) -> FollowedRace:
    answered_at = None if polled_ago_s is None else NOW - timedelta(seconds=polled_ago_s)
    return FollowedRace(
        race_id=title, title=title, start_time=NOW + timedelta(seconds=start_in_s), answered_at=answered_at, error=error
    )


def judge(*races: FollowedRace, up_since: datetime | None = LONG_AGO) -> list[Check]:
    return list(judge_polls(races, NOW, up_since))


@pytest.mark.parametrize(
    ("start_in_s", "polled_ago_s", "late"),
    [
        (120, 15, False),
        (120, 45, False),
        (120, 46, True),
        (-600, 45, False),
        (-600, 46, True),
        (280, 90, False),  # last answered 6 min 10 s before the start, when 30 s was its cadence
        (280, 91, True),
        (120, None, True),
        (120, -600, True),  # the clock ran ahead when it was answered
    ],
)
def test_a_live_race_fails_after_three_intervals_without_a_new_answer(
    start_in_s: float, polled_ago_s: float | None, late: bool
) -> None:
    (check,) = judge(build_race(start_in_s=start_in_s, polled_ago_s=polled_ago_s))
    assert (check.verdict == "FAIL") is late


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
    assert "A R4 (no good poll yet) and 4 more" in check.text


def test_a_late_race_alone_is_named_with_the_age_of_its_good_poll_and_the_newest_reason() -> None:
    refused = "the API refused\x1b[2J the connection"
    fine = build_race(start_in_s=90, polled_ago_s=5, title="B R2")
    (check,) = judge(build_race(start_in_s=-60, polled_ago_s=90, error=refused), fine)
    assert str(check) == (
        "FAIL    polls: Ellerslie R1 (last good poll 90 s ago); the newest error: the API refused [2J the connection; "
        "look at the newest runs and at logs/run-server.log"
    )


@pytest.mark.parametrize("up_since", [LONG_AGO, None])
def test_every_daemon_must_have_given_a_sign_of_life_within_150_seconds(up_since: datetime | None) -> None:
    beats = {"SENSOR": NOW - timedelta(seconds=150), "SCHEDULER": NOW}
    assert judge_heartbeats(beats, NOW, up_since).verdict == "ok"
    late = judge_heartbeats({**beats, "SENSOR": NOW - timedelta(seconds=151)}, NOW, up_since)
    assert str(late).startswith("FAIL    daemon: no heartbeat of SENSOR (2 min ago)")
    assert "MONITORING (never seen)" in judge_heartbeats({**beats, "MONITORING": None}, NOW, up_since).text


def test_a_service_that_has_just_started_is_only_warned_of_what_it_has_not_done_yet() -> None:
    beats = judge_heartbeats({"SENSOR": NOW - timedelta(days=1)}, NOW, JUST_NOW)
    assert str(beats) == "warning daemon: the service has just started; no heartbeat yet of SENSOR (24 h ago)"
    assert [str(check) for check in judge_automation({}, NOW, JUST_NOW)] == [
        "warning sensor: the service has just started; due_races has not run yet"
    ]
    assert judge_day(False, NOW, JUST_NOW).verdict == "warning"
    (polls,) = judge(build_race(start_in_s=60, polled_ago_s=None), up_since=JUST_NOW)
    assert polls.verdict == "warning"
    assert is_healthy([polls])


@pytest.mark.parametrize(
    ("status", "verdict"), [("RUNNING", "ok"), ("DECLARED_IN_CODE", "ok"), ("STOPPED", "FAIL"), (None, "FAIL")]
)
def test_the_sensor_that_polls_must_be_on(status: str | None, verdict: str) -> None:
    others = dict.fromkeys(HELPERS, "RUNNING")
    check, *_ = judge_automation(others if status is None else {**others, SENSOR: status}, NOW, LONG_AGO)
    assert check.verdict == verdict


def test_a_schedule_that_is_off_or_was_never_seen_is_a_warning() -> None:
    statuses = {**ALL_ON, "maintenance_schedule": "STOPPED"}
    del statuses["first_baseline"]
    assert [str(check) for check in judge_automation(statuses, NOW, LONG_AGO)] == [
        "ok      sensor: due_races is on",
        "warning automation: switched off: maintenance_schedule; switch on in the UI, under Automation",
        "warning automation: never seen: first_baseline; look at logs/daemon.log",
    ]
    assert all(check.verdict == "ok" for check in judge_automation(ALL_ON, NOW, LONG_AGO))


def test_all_that_begins_runs_by_itself_is_looked_at() -> None:
    running = {dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING}
    begins = [*(defs.sensors or ()), *(defs.schedules or ())]
    assert {each.name for each in begins if each.default_status in running} == {SENSOR, *HELPERS}


@pytest.mark.parametrize(
    ("wall_clock", "is_listed", "said"),
    [
        ("2026-03-01T16:00+13:00", True, "ok      day: 2026-03-01 is loaded"),
        (
            "2026-03-01T16:00+13:00",
            False,
            "FAIL    day: 2026-03-01 is not loaded, so its races are not polled; look at ",
        ),
        ("2026-03-02T05:59+13:00", False, "FAIL    day: 2026-03-01 is not loaded"),
        ("2026-03-02T06:00+13:00", False, "warning day: 2026-03-02 has just begun and is not loaded yet"),
        ("2026-03-02T06:14+13:00", False, "warning day: 2026-03-02 has just begun"),
        ("2026-03-02T06:15+13:00", False, "FAIL    day: 2026-03-02 is not loaded"),
    ],
)
def test_the_racing_day_under_way_must_be_loaded(wall_clock: str, is_listed: bool, said: str) -> None:
    assert str(judge_day(is_listed, datetime.fromisoformat(wall_clock), None)).startswith(said)


@pytest.mark.parametrize(("given", "missing"), [("DATABASE_URL", "DAGSTER_PG_URL"), ("DAGSTER_PG_URL", "DATABASE_URL")])
def test_half_a_pair_of_databases_is_refused_in_one_line(given: str, missing: str, tmp_path: Path) -> None:
    environment = {given: "postgresql://u:secret@h/d", "RACEDAY_HOME": str(tmp_path), missing: " "}
    assert [str(check) for check in check_health(environment, NOW)] == [
        f"FAIL    settings: {given} is set and {missing} is not: set both, or neither to ask for the service that runs "
        "in RACEDAY_HOME"
    ]


def test_one_database_for_both_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raceday_dagster.service.health._check_dagster", lambda *_: iter(()))
    given = {"DATABASE_URL": "postgres://u:secret@h/d", "DAGSTER_PG_URL": "postgresql://u:secret@h/d"}
    (said,) = check_health({**given, "RACEDAY_HOME": str(tmp_path)}, NOW)
    assert str(said).startswith("warning settings: DAGSTER_PG_URL is DATABASE_URL")
    assert "secret" not in str(said)


def test_a_service_is_as_old_as_its_state_file_says_if_it_is_its_own() -> None:
    state = ServiceState(7, "http://x", LONG_AGO.isoformat(), {})
    assert date_holder(Holder("raceday up, pid 7 on h", NOW), state) == Holder("raceday up, pid 7 on h", LONG_AGO)
    for name, known in (("raceday up, pid 77 on h", state), ("raceday up, pid 7 on h", None)):
        assert date_holder(Holder(name, NOW), known) == Holder(name, NOW)
    assert date_holder(None, state) is None


def test_nobody_holding_the_lock_fails() -> None:
    assert judge_service(None).verdict == "FAIL"
    assert str(judge_service(Holder("raceday up, pid 7 on h", NOW))) == (
        "ok      service: raceday up, pid 7 on h, since 2026-03-01 03:00:00 UTC"
    )


@pytest.mark.parametrize(("seconds", "said"), [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h")])
def test_an_age_is_said_in_one_unit(seconds: int, said: str) -> None:
    assert describe_age(timedelta(seconds=seconds)) == said


def test_the_report_for_programs_says_what_the_lines_say() -> None:
    checks = [Check("ok", "database: fine"), Check("warning", "day: just begun")]
    assert describe_health(checks) == {
        "healthy": True,
        "checks": [{"verdict": "ok", "text": "database: fine"}, {"verdict": "warning", "text": "day: just begun"}],
    }
    assert not describe_health([*checks, Check("FAIL", "polls: none")])["healthy"]


@pytest.mark.parametrize(
    ("seen_ago_s", "said"),
    [
        ({"kea": 1, "tui": 19}, "ok      machines: 2 take runs (kea, tui)"),
        ({"kea": 1, "tui": 20}, "warning machines: 1 take runs (kea); no sign of life of tui (20 s)"),
        ({"kea": 1, "tui": -20}, "warning machines: 1 take runs (kea); no sign of life of tui (20 s)"),
        ({"kea": 1, "tui": 86_400}, "ok      machines: 1 take runs (kea)"),
        (
            {"tui": 300},
            "FAIL    machines: none takes runs; no sign of life of tui (5 min); start `raceday worker` on one",
        ),
        ({}, f"FAIL    machines: none takes runs; {START_ONE}"),
    ],
)
def test_machines_that_take_runs_are_named_and_one_that_died_is_missed_for_a_day(
    seen_ago_s: dict[str, int], said: str
) -> None:
    machines = {name: Machine(NOW - timedelta(seconds=ago_s)) for name, ago_s in seen_ago_s.items()}
    assert str(judge_machines(machines, NOW, LONG_AGO)) == said


def test_a_machine_that_left_is_not_missed_and_a_service_that_has_just_started_waits_for_the_first() -> None:
    left = {"tui": Machine(NOW - timedelta(seconds=60), has_left=True)}
    assert judge_machines({**left, "kea": Machine(NOW)}, NOW, LONG_AGO).verdict == "ok"
    assert judge_machines(left, NOW, JUST_NOW).verdict == "warning"
    assert judge_machines(left, NOW, LONG_AGO).verdict == "FAIL"
