"""Which sensors and schedules somebody switched off, from what Dagster's instance remembers of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import dagster as dg
import pytest

from raceday_dagster.service.dagster_instance import describe_switched_off, read_automation


@dataclass(frozen=True)
class Status:
    value: str


@dataclass(frozen=True)
class State:
    instigator_name: str
    status: Status


@dataclass(frozen=True)
class Instance:
    states: tuple[State, ...]

    def all_instigator_state(self) -> Any:
        return self.states


def build_instance(*states: tuple[str, str]) -> dg.DagsterInstance:
    return cast(dg.DagsterInstance, Instance(tuple(State(name, Status(status)) for name, status in states)))


@pytest.mark.parametrize("order", [1, -1])
def test_the_state_of_a_code_location_that_is_gone_does_not_count(order: int) -> None:
    states = [("due_races", "STOPPED"), ("due_races", "DECLARED_IN_CODE")][::order]
    assert read_automation(build_instance(*states)) == {"due_races": "DECLARED_IN_CODE"}


def test_what_is_switched_off_is_named_in_one_line_and_a_stranger_is_not() -> None:
    instance = build_instance(
        ("maintenance_schedule", "STOPPED"),
        ("due_races", "STOPPED"),
        ("first_baseline", "RUNNING"),
        ("of_an_older_release", "STOPPED"),
    )
    assert describe_switched_off(instance) == (
        "WARNING: switched off in the UI, and not run: due_races, maintenance_schedule"
    )


def test_nothing_is_said_when_all_is_on() -> None:
    assert describe_switched_off(build_instance(("due_races", "RUNNING"))) is None
