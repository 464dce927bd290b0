"""When a race is due."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raceday_dagster.racing.cadence import (
    CLAIM_LASTS,
    LiveBatch,
    PolledRace,
    PollPlan,
    choose_interval,
    find_due_time,
    find_in_flight,
    find_next_slot,
    floor_to_grid,
    is_slot,
    plan_polls,
)

NOW = datetime(2026, 9, 26, 13, 59, 30, tzinfo=UTC)  # half a minute before New Zealand's clocks go forward
CLOCKS_GO_BACK = datetime(2026, 4, 4, 14, 0, tzinfo=UTC)
CLOCKS_GO_FORWARD = datetime(2026, 9, 26, 14, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEAD = timedelta(seconds=0.75)


def store_race(
    race_id: str = "r", *, start_in: float = 600, status: str = "open", polled_ago: float | None = None
) -> PolledRace:
    polled_at = None if polled_ago is None else NOW - timedelta(seconds=polled_ago)
    return PolledRace(
        race_id=race_id,
        start_time=NOW + timedelta(seconds=start_in),
        status=status,
        last_poll_time=polled_at,
        newest_poll_time=polled_at,
    )


def plan(*races: PolledRace, in_flight: Iterable[str] = (), horizon: timedelta = timedelta(0)) -> PollPlan:
    return plan_polls(races, frozenset(in_flight), NOW, horizon)


def find_slots(race: PolledRace, begin: datetime, end: datetime) -> list[datetime]:
    slots = []
    while (begin := find_next_slot(race, begin)) < end:
        slots.append(begin)
    return slots


@pytest.mark.parametrize(
    ("seconds_to_start", "interval"),
    [
        (86_400, 60),
        (900.000001, 60),
        (900, 30),
        (300.000001, 30),
        (300, 15),
        (0, 15),
        (-1, 15),
        (-7_199, 15),
    ],
)
def test_the_interval_shortens_towards_the_start(seconds_to_start: float, interval: int) -> None:
    assert choose_interval(timedelta(seconds=seconds_to_start)) == timedelta(seconds=interval)


@pytest.mark.parametrize(("seconds_to_start", "interval"), [(3_900.000001, 1_800), (3_900, 60), (600, 30), (10, 15)])
def test_a_chosen_interval_is_for_races_more_than_65_minutes_away(seconds_to_start: float, interval: int) -> None:
    chosen = choose_interval(timedelta(seconds=seconds_to_start), timedelta(minutes=30))
    assert chosen == timedelta(seconds=interval)


@given(
    race_id=st.uuids().map(str),
    start_in=st.integers(-7_000, 90_000),
    far_minutes=st.integers(1, 60),
)
def test_the_next_slot_is_the_first_point_of_the_grid_that_is_one(
    race_id: str, start_in: int, far_minutes: int
) -> None:
    race, far = store_race(race_id, start_in=start_in), timedelta(minutes=far_minutes)
    points = (floor_to_grid(NOW) + number * timedelta(seconds=15) for number in range(1, 1_000))
    slot = find_next_slot(race, NOW, far)
    assert slot == next(point for point in points if is_slot(race, point, far))
    assert slot - NOW <= choose_interval(race.start_time - NOW, far) + timedelta(seconds=15)


@pytest.mark.parametrize("start_in", [86_399, 80_000, 600, 10, -60, -7_199])
def test_a_race_never_polled_is_due_at_once(start_in: int) -> None:
    assert plan(store_race(start_in=start_in)).race_ids == ("r",)
    assert plan(store_race(start_in=start_in)).due_at == NOW


@pytest.mark.parametrize("seconds_to_start", [3_600, 900, 600, 300, 0, -3_600])
def test_a_race_is_due_from_its_slot_on_and_not_a_moment_before(seconds_to_start: int) -> None:
    race = store_race(start_in=0)
    polled = race.model_copy(update={"last_poll_time": NOW - timedelta(seconds=seconds_to_start)})
    slot = find_due_time(polled, NOW + timedelta(hours=2))
    just_before = slot - timedelta(microseconds=1)
    assert plan_polls([polled], (), slot).race_ids == ("r",)
    assert plan_polls([polled], (), just_before).race_ids == ()
    assert plan_polls([polled], (), just_before).next_due_at == slot


@pytest.mark.parametrize("status", ["final", "abandoned"])
def test_a_race_that_is_over_is_not_polled(status: str) -> None:
    over = plan(store_race(status=status))
    assert (over.race_ids, over.next_due_at, over.watched) == ((), None, 0)


@pytest.mark.parametrize("status", ["open", "closed", "interim"])
def test_a_closed_or_interim_race_is_not_over(status: str) -> None:
    assert plan(store_race(start_in=-300, status=status)).race_ids == ("r",)


@pytest.mark.parametrize(("start_in", "due"), [(-7_200, ()), (-7_199, ("r",)), (86_399, ("r",)), (86_400, ())])
def test_the_window_is_two_hours_back_and_a_day_ahead(start_in: int, due: tuple[str, ...]) -> None:
    assert plan(store_race(start_in=start_in)).race_ids == due


def test_a_slot_two_hours_after_the_start_is_none_of_the_race_any_more() -> None:
    race = store_race(start_in=-7_195, polled_ago=1)
    assert find_next_slot(race, NOW - SECOND) == NOW
    assert plan(race).race_ids == ("r",)
    gone = race.model_copy(update={"last_poll_time": NOW})
    assert plan(gone, horizon=timedelta(minutes=1)).race_ids == ()
    assert plan(gone).next_due_at is None


def test_the_earliest_start_comes_first() -> None:
    races = [store_race("later", start_in=500), store_race("sooner", start_in=100), store_race("gone", start_in=-50)]
    assert plan(*races).race_ids == ("gone", "sooner", "later")


def test_what_falls_due_within_the_horizon_is_due_and_the_plan_says_when() -> None:
    overdue = store_race("overdue", start_in=60, polled_ago=100)
    polled = store_race("next", start_in=60, polled_ago=0)
    soon = plan(overdue, polled, horizon=timedelta(seconds=15))
    assert (soon.race_ids, soon.due_at, soon.next_due_at) == (("next", "overdue"), NOW + 15 * SECOND, None)
    now = plan(overdue, polled, horizon=timedelta(seconds=15) - timedelta(microseconds=1))
    assert (now.race_ids, now.next_due_at) == (("overdue",), NOW + 15 * SECOND)
    assert now.due_at == NOW - 90 * SECOND


def test_a_race_whose_poll_is_in_flight_is_left_out_until_its_next_slot() -> None:
    asked, other = store_race("asked", start_in=60, polled_ago=20), store_race("other", start_in=60, polled_ago=20)
    left = plan(asked, other, in_flight=["asked"], horizon=LEAD)
    assert (left.race_ids, left.in_flight, left.next_due_at) == (("other",), 1, NOW + 15 * SECOND)
    assert plan(store_race(polled_ago=1), in_flight=["r"]).in_flight == 0


def test_a_race_never_polled_is_left_to_the_run_that_loads_its_day_unless_it_is_near() -> None:
    far, near = store_race("far", start_in=901), store_race("near", start_in=900)
    known = store_race("known", start_in=901, polled_ago=3_600)
    assert plan_polls([far, near, known], (), NOW, is_loading=True).race_ids == ("near", "known")
    assert plan_polls([far, near, known], (), NOW).race_ids == ("near", "far", "known")


def test_far_races_are_spread_over_the_minute() -> None:
    races = [store_race(f"race-{number}", start_in=80_000) for number in range(400)]
    begin = floor_to_grid(NOW)
    shares = [sum(is_slot(race, begin + number * timedelta(seconds=15)) for race in races) for number in range(4)]
    assert sum(shares) == 400
    assert min(shares) > 60


def follow(
    race: PolledRace,
    *,
    begin: datetime,
    end: datetime,
    tick: Callable[[int], timedelta],
    answer: timedelta = timedelta(seconds=0.4),
) -> list[datetime]:
    """The due times that were polled: each tick looks, a poll begins when due and is in the ledger ``answer`` later."""
    now, number, seen = begin, 0, race
    due_times: list[datetime] = []
    pending: datetime | None = None
    while now < end:
        if pending is not None and pending <= now:
            seen, pending = seen.model_copy(update={"last_poll_time": pending}), None
        found = plan_polls([seen], () if pending is None else (race.race_id,), now, LEAD)
        if found.due_at is not None:
            due_times.append(found.due_at)
            pending = max(found.due_at, now) + answer
        now += tick(number)
        number += 1
    return due_times


@settings(max_examples=15, deadline=None)
@given(
    race_id=st.text(max_size=8),
    start_s=st.integers(0, 10**7),
    pauses=st.lists(st.integers(300, 1_400), min_size=1, max_size=9),
)
def test_every_slot_of_a_race_is_polled_once_and_no_gap_is_longer_than_its_interval(
    race_id: str, start_s: int, pauses: list[int]
) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC) + start_s * SECOND
    race = PolledRace(race_id=race_id, start_time=start, status="open")
    begin, end = start - timedelta(minutes=17), start + timedelta(minutes=1)

    def tick(number: int) -> timedelta:
        return timedelta(milliseconds=pauses[number % len(pauses)])

    due_times = follow(race, begin=begin, end=end, tick=tick)
    assert due_times[0] == begin
    last = due_times[-1] + timedelta(microseconds=1)
    # The first poll, at once, may itself be the answer to the slot that it met.
    assert due_times[1:] == find_slots(race, begin + timedelta(seconds=0.4), last)
    assert last > end - timedelta(seconds=16)
    for earlier, later in pairwise(due_times[1:]):
        assert later - earlier <= choose_interval(start - earlier)
    final = [due_at for due_at in due_times if due_at >= start - timedelta(minutes=5)]
    assert {later - earlier for earlier, later in pairwise(final)} == {timedelta(seconds=15)}


@pytest.mark.parametrize("night", [CLOCKS_GO_BACK, CLOCKS_GO_FORWARD])
def test_a_night_on_which_the_clocks_change_is_polled_like_any_other(night: datetime) -> None:
    race = PolledRace(race_id="r", start_time=night + timedelta(minutes=10), status="open")
    begin, end = night - timedelta(minutes=10), night + timedelta(minutes=20)
    due_times = follow(race, begin=begin, end=end, tick=lambda _number: SECOND)
    assert len(due_times) == 1 + 5 + 20 + 60


def test_a_late_tick_polls_once_and_the_grid_stays_where_it_was() -> None:
    race = store_race(start_in=60, polled_ago=0)
    late = plan_polls([race], (), NOW + 19 * SECOND, LEAD)
    assert (late.race_ids, late.due_at) == (("r",), NOW + 15 * SECOND)
    polled = race.model_copy(update={"last_poll_time": NOW + 20 * SECOND})
    assert plan_polls([polled], (), NOW + 21 * SECOND, LEAD).next_due_at == NOW + 30 * SECOND


def test_an_outage_is_made_up_for_by_one_poll() -> None:
    race = store_race(start_in=60, polled_ago=7_200)
    due_times = follow(race, begin=NOW, end=NOW + timedelta(minutes=1), tick=lambda _number: SECOND)
    assert len(due_times) == 1 + 3


def test_a_clock_that_jumps_ahead_costs_one_poll() -> None:
    race = store_race(start_in=3_600, polled_ago=0)
    jumped = NOW + timedelta(minutes=30)
    assert plan_polls([race], (), jumped).race_ids == ("r",)
    polled = race.model_copy(update={"last_poll_time": jumped})
    assert plan_polls([polled], (), jumped + SECOND).race_ids == ()


def test_a_poll_from_the_future_of_a_clock_that_went_back_is_not_believed() -> None:
    race = store_race(start_in=3_600, polled_ago=-1_800)
    assert plan(race).race_ids == ("r",)
    assert plan(race.model_copy(update={"last_poll_time": None})).race_ids == ("r",)


def make_batch(run_id: str, *race_ids: str, age: timedelta = SECOND) -> LiveBatch:
    return LiveBatch(run_id=run_id, race_ids=race_ids, created_at=NOW - age)


def test_a_race_is_in_flight_until_the_ledger_has_it_from_that_run() -> None:
    batches = [make_batch("one", "a", "b"), make_batch("two", "c")]
    found = find_in_flight(batches, {("one", "a"), ("other", "b")}, NOW)
    assert (found.batches, found.race_ids) == (2, frozenset({"b", "c"}))


@pytest.mark.parametrize(
    ("age", "batches", "races"),
    [
        (CLAIM_LASTS - SECOND, 1, 1),
        (CLAIM_LASTS, 1, 0),
        (-CLAIM_LASTS + SECOND, 1, 1),
        (-CLAIM_LASTS, 0, 0),
    ],
)
def test_a_stuck_run_is_counted_without_its_races_and_one_from_the_future_not_at_all(
    age: timedelta, batches: int, races: int
) -> None:
    found = find_in_flight([make_batch("one", "a", age=age)], (), NOW)
    assert (found.batches, len(found.race_ids)) == (batches, races)
