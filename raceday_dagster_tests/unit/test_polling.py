"""When a race is due."""

from datetime import UTC, datetime, timedelta

import pytest

from raceday_dagster.racing.polling import PolledRace, choose_due_races, choose_interval

NOW = datetime(2026, 9, 26, 13, 59, 30, tzinfo=UTC)  # half a minute before New Zealand's clocks go forward


def store_race(
    race_id: str = "r", *, start_in: float = 600, status: str = "open", polled_ago: float | None = None
) -> PolledRace:
    return PolledRace(
        race_id=race_id,
        start_time=NOW + timedelta(seconds=start_in),
        status=status,
        last_poll_time=None if polled_ago is None else NOW - timedelta(seconds=polled_ago),
    )


@pytest.mark.parametrize(
    ("seconds_to_start", "interval"),
    [
        (86_400, 60),
        (901, 60),
        (900, 30),
        (301, 30),
        (300, 15),
        (0, 15),
        (-1, 15),
        (-7_199, 15),
    ],
)
def test_the_interval_shortens_towards_the_start(seconds_to_start: int, interval: int) -> None:
    assert choose_interval(timedelta(seconds=seconds_to_start)) == timedelta(seconds=interval)


def test_a_race_never_polled_is_due_at_once() -> None:
    assert choose_due_races([store_race(start_in=80_000)], NOW) == ["r"]


@pytest.mark.parametrize(("start_in", "interval"), [(1_000, 60), (600, 30), (60, 15), (-60, 15)])
def test_a_race_is_due_when_its_interval_has_passed(start_in: int, interval: int) -> None:
    assert choose_due_races([store_race(start_in=start_in, polled_ago=interval)], NOW) == ["r"]
    assert choose_due_races([store_race(start_in=start_in, polled_ago=interval - 1)], NOW) == []


@pytest.mark.parametrize("status", ["final", "abandoned"])
def test_a_race_that_is_over_is_not_polled(status: str) -> None:
    assert choose_due_races([store_race(status=status)], NOW) == []


@pytest.mark.parametrize("status", ["open", "closed", "interim"])
def test_a_closed_or_interim_race_is_not_over(status: str) -> None:
    assert choose_due_races([store_race(start_in=-300, status=status)], NOW) == ["r"]


@pytest.mark.parametrize(("start_in", "due"), [(-7_200, []), (-7_199, ["r"]), (86_399, ["r"]), (86_400, [])])
def test_the_window_is_two_hours_back_and_a_day_ahead(start_in: int, due: list[str]) -> None:
    assert choose_due_races([store_race(start_in=start_in)], NOW) == due


def test_the_earliest_start_comes_first() -> None:
    races = [store_race("later", start_in=500), store_race("sooner", start_in=100), store_race("gone", start_in=-50)]
    assert choose_due_races(races, NOW) == ["gone", "sooner", "later"]
