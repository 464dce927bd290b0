"""Who is told of what the sensor `alerts` sees, and what it remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from raceday_dagster.dagster_plugins.machines import Machine
from raceday_dagster.defs.automation.alerts import find_machine_troubles, read_memory, tell_troubles
from raceday_dagster.errors import DatabaseError
from raceday_dagster.racing.alerts import AlertMemory, Trouble
from raceday_dagster_tests.log_contract import SENSOR_EVENTS, find_wrong

NOW = datetime(2026, 9, 26, 3, 0, tzinfo=UTC)
HOOK = SecretStr("https://hooks.example/hunter2")
FAILED = Trouble(event="run_failed", about="maintenance", text="run 1 of maintenance failed")
OVERDUE = Trouble(event="race_unfinished", about="race-1", text="Awapuni R1: still open")


@dataclass
class FakeWatch:
    races: list[Trouble] | DatabaseError = field(default_factory=list)
    runs: list[Trouble] = field(default_factory=list)

    def list_race_troubles(self, now: datetime) -> list[Trouble]:
        if isinstance(self.races, DatabaseError):
            raise self.races
        return list(self.races)

    def list_run_troubles(self, now: datetime) -> list[Trouble]:
        return list(self.runs)


@dataclass
class FakeHook:
    reason: str | None = None
    sent: list[list[tuple[str, str]]] = field(default_factory=list)

    def send(self, url: SecretStr, body: Mapping[str, object]) -> str | None:
        assert url == HOOK
        alerts = json.loads(json.dumps(body["alerts"]))
        self.sent.append([(alert["state"], alert["about"]) for alert in alerts])
        return self.reason


@pytest.fixture
def hook() -> FakeHook:
    return FakeHook()


def look(watch: FakeWatch, memory: AlertMemory, hook: FakeHook, *, after_s: int = 0) -> AlertMemory:
    """One look, with a memory that has been in a cursor."""
    remembered = read_memory(memory.model_dump_json())
    return tell_troubles(watch, remembered, NOW + timedelta(seconds=after_s), HOOK, hook.send)[0]


def test_what_is_told_goes_to_the_log_and_to_the_webhook_in_one_post(
    hook: FakeHook, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = FakeWatch([OVERDUE], [FAILED])
    memory = look(watch, AlertMemory(), hook)
    memory = look(watch, memory, hook, after_s=30)
    look(FakeWatch([], [FAILED]), memory, hook, after_s=60)
    assert hook.sent == [[("raised", "maintenance"), ("raised", "race-1")], [("cleared", "race-1")]]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["state"], line["alert"]) for line in lines] == [
        ("alert", "error", "raised", "run_failed"),
        ("alert", "error", "raised", "race_unfinished"),
        ("alert", "info", "cleared", "race_unfinished"),
    ]


def test_what_a_webhook_did_not_take_is_sent_again_with_what_comes_next(
    hook: FakeHook, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.reason = "it answered 500"
    memory = look(FakeWatch(runs=[FAILED]), AlertMemory(), hook)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["alert", "alert_webhook_failed"]
    assert find_wrong(lines, SENSOR_EVENTS, in_run=False) == []
    hook.reason = None
    memory = look(FakeWatch(), memory, hook, after_s=30)
    look(FakeWatch(), memory, hook, after_s=60)
    assert hook.sent == [[("raised", "maintenance")], [("raised", "maintenance"), ("cleared", "maintenance")]]


def test_a_database_that_is_down_is_a_trouble_and_clears_none(hook: FakeHook) -> None:
    memory = look(FakeWatch([OVERDUE]), AlertMemory(), hook)
    memory = look(FakeWatch(DatabaseError("port 5432 cannot be reached")), memory, hook, after_s=30)
    look(FakeWatch([OVERDUE]), memory, hook, after_s=60)
    assert hook.sent == [[("raised", "race-1")], [("raised", "")], [("cleared", "")]]


def test_a_race_without_an_answer_is_not_told_at_the_first_look_of_a_service_that_was_down(hook: FakeHook) -> None:
    late = Trouble(event="race_without_answer", about="race-1", text="Awapuni R1: no new answer", settles=True)
    memory = look(FakeWatch([late]), AlertMemory(), hook)
    memory = look(FakeWatch([late]), memory, hook, after_s=300)
    assert hook.sent == []
    memory = look(FakeWatch([late]), memory, hook, after_s=330)
    look(FakeWatch(), memory, hook, after_s=900)
    assert hook.sent == [[("raised", "race-1")], [("cleared", "race-1")]]


def test_without_a_webhook_only_the_log_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    memory, said = tell_troubles(FakeWatch(runs=[FAILED]), AlertMemory(), NOW, None)
    assert memory.unsent == ()
    assert said == "1 troubles, 1 told now, 0 not sent"
    assert '"state": "raised"' in capsys.readouterr().err


@pytest.mark.parametrize("cursor", [None, "", "{}", '{"told": 1}', "nothing of ours"])
def test_a_cursor_of_another_release_is_an_empty_memory(cursor: str | None) -> None:
    assert read_memory(cursor) == AlertMemory()


def test_a_dead_machine_is_a_trouble_and_none_at_all_another() -> None:
    alive, dead = Machine(NOW - timedelta(seconds=2)), Machine(NOW - timedelta(seconds=30))
    assert find_machine_troubles({"kea": alive}, NOW) == []
    (lost,) = find_machine_troubles({"kea": alive, "tui": dead}, NOW)
    assert (lost.cause, lost.text) == (
        "machine_lost tui",
        "machine tui has given no sign of life since 02:59:30 UTC; its runs have failed",
    )
    assert [each.event for each in find_machine_troubles({"tui": dead}, NOW)] == ["machine_lost", "no_machine"]
    assert [each.event for each in find_machine_troubles({}, NOW)] == ["no_machine"]
