"""When somebody is told of a trouble: once, again after an hour, and when it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.racing.alerts import Raised, Trouble, choose_messages

NOW = datetime(2026, 9, 26, 3, 0, tzinfo=UTC)
STEP = timedelta(seconds=30)
FAILED = Trouble(event="run_failed", about="maintenance", text="run 1 of maintenance failed")
LATE = Trouble(event="race_without_answer", about="race-1", text="Awapuni R1: no new answer", settles=True)


def watch(*looks: list[Trouble], step: timedelta = STEP) -> list[list[str]]:
    """What is told at each look, one every ``step``."""
    raised: dict[str, Raised] = {}
    said = []
    for number, troubles in enumerate(looks):
        told = choose_messages(troubles, raised, NOW + number * step)
        raised = dict(told.raised)
        said.append([f"{message.state} {message.about}" for message in told.messages])
    return said


def test_a_trouble_is_told_once_and_when_it_is_over() -> None:
    again = FAILED.model_copy(update={"text": "run 2 of maintenance failed"})
    assert watch([FAILED], [FAILED], [again], []) == [["raised maintenance"], [], [], ["cleared maintenance"]]


def test_a_trouble_that_lasts_is_told_again_after_an_hour() -> None:
    assert watch([FAILED], [FAILED], [FAILED], [FAILED], step=timedelta(minutes=30)) == [
        ["raised maintenance"],
        [],
        ["repeated maintenance"],
        [],
    ]


def test_a_trouble_that_may_settle_is_told_at_the_second_look_and_forgotten_if_it_did() -> None:
    assert watch([LATE], [LATE], []) == [[], ["raised race-1"], ["cleared race-1"]]
    assert watch([LATE], [], [LATE]) == [[], [], []]


def test_two_causes_are_told_apart() -> None:
    other = LATE.model_copy(update={"about": "race-2"})
    assert watch([FAILED, LATE, other], [LATE, other], [other]) == [
        ["raised maintenance"],
        ["raised race-1", "raised race-2", "cleared maintenance"],
        ["cleared race-1"],
    ]


@given(st.lists(st.booleans(), max_size=40))
def test_every_raise_is_cleared_once_and_in_turn(is_wrong: list[bool]) -> None:
    said = [text for look in watch(*([FAILED] if wrong else [] for wrong in is_wrong), []) for text in look]
    assert said == ["raised maintenance", "cleared maintenance"] * (len(said) // 2)
