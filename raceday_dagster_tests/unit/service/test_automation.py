"""Which sensors and schedules somebody switched off, from what Dagster's instance remembers of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raceday_dagster.service.dagster_instance import describe_switched_off, read_automation


def build_instance(*states: tuple[str, str]) -> Any:
    """An instance that remembers these sensors and schedules, as Dagster's does."""
    known = [SimpleNamespace(instigator_name=name, status=SimpleNamespace(value=status)) for name, status in states]
    return SimpleNamespace(all_instigator_state=lambda: known)


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
    assert describe_switched_off(build_instance(("due_races", "RUNNING"))) is None
