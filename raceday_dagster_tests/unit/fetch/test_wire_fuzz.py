"""Whatever the API sends, an answer becomes a snapshot or one line that says why not, and only what a race cannot be
without costs the race. ``make faults`` tries a hundred thousand examples of the same, by a seed of its own."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raceday_dagster.fetch.event import REQUIRED, parse_race_event
from raceday_dagster.fetch.wire import Location, WireError
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.simulator.day import RaceDay
from raceday_dagster.simulator.event import build_event
from raceday_dagster.transform.race import transform_race
from raceday_dagster_tests.payloads import encode

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
IS_CAMPAIGN = "FUZZ_EXAMPLES" in os.environ
"""Its examples follow from ``--hypothesis-seed``; those of the suite are always the same."""
RACE = next(race for race in RaceDay(7, date(2025, 7, 17)).races if race.abandoned_at is None and not race.oddity)
NOW = RACE.starts_at + timedelta(hours=1)


def shorten(value: Any) -> Any:
    """The value with three items of each list: a fourth is as the third, and costs time in each example."""
    if isinstance(value, dict):
        return {key: shorten(part) for key, part in value.items()}
    return [shorten(part) for part in value[:3]] if isinstance(value, list) else value


PAYLOADS = [
    shorten(
        json.loads(encode(build_event(RACE, RACE.starts_at + after, {"with_money_tracker": "true"}, "/racing/events")))
    )
    for after in (timedelta(minutes=-2), timedelta(minutes=40))
]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
# One level: what is below is never looked at where a field is of another kind.
JSON_VALUES = (
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("abc"), SCALARS) | st.just([[{"a": []}]])
)


def list_paths(value: Any, path: Location = ()) -> list[Location]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[deeper for key, part in parts for deeper in list_paths(part, (*path, key))]]


PATHS = [list_paths(payload)[1:] for payload in PAYLOADS]
MUTATIONS = st.one_of(
    st.tuples(st.just(which), st.lists(st.tuples(st.sampled_from(paths), JSON_VALUES), min_size=1, max_size=3))
    for which, paths in enumerate(PATHS)
)
"""Of which payload, and what is put into which of its places."""


def replace_at(payload: Any, path: Location, value: Any) -> bool:
    """Puts ``value`` at ``path``; whether there still was such a place."""
    try:
        for part in path[:-1]:
            payload = payload[part]
        payload[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return False
    return True


def is_important(path: Location) -> bool:
    """Whether something a race cannot be without is at the path or below it."""
    return any(place[: len(path)] == path for place in REQUIRED)


def read_or_complain(body: bytes) -> RaceEvent | str:
    try:
        return parse_race_event(body, race_id=RACE.race_id, received_at=NOW)
    except WireError as error:
        return str(error)


@settings(
    max_examples=EXAMPLES,
    derandomize=not IS_CAMPAIGN,
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
    database=None,
)
@given(mutation=MUTATIONS)
def test_no_value_in_any_place_costs_a_race_that_does_not_depend_on_it(
    mutation: tuple[int, list[tuple[Location, Any]]],
) -> None:
    which, changed = mutation
    payload = json.loads(json.dumps(PAYLOADS[which]))
    replaced = [path for path, value in changed if replace_at(payload, path, value)]
    event = read_or_complain(encode(payload))
    if isinstance(event, str):
        assert "\n" not in event
        assert len(event) < 400
        assert any(map(is_important, replaced)), event
        return
    # What passes survives the border to another process, absent fields included.
    again = RaceEvent.model_validate_json(event.model_dump_json(exclude_unset=True))
    assert again.model_dump(exclude_unset=True) == event.model_dump(exclude_unset=True)
    assert "\0" not in again.model_dump_json()
    assert set(event.warnings) <= set(transform_race(again).quality.warnings)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(body: bytes) -> None:
    assert "\n" not in str(read_or_complain(body))
