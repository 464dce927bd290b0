"""The judge of a live day, on ledgers made by hand: what it must not let pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.cadence import Batch, LiveRace, Outage, Poll, Verdict, judge

START = datetime(2026, 9, 26, 2, 0, tzinfo=UTC)
RACE = LiveRace("a", START, "open")
BEGAN_AT = START - timedelta(minutes=2)


def judge_polls(
    offsets_s: Iterable[float],
    *,
    race: LiveRace = RACE,
    began_at: datetime = BEGAN_AT,
    ended_s: float = 60,
    outages: Sequence[Outage] = (),
) -> Verdict:
    """A race polled at these seconds after ``began_at``, each time by a batch due 0.4 s earlier."""
    polls, batches = [], []
    for number, offset_s in enumerate(offsets_s):
        polled_at = began_at + timedelta(seconds=offset_s)
        run_id = f"run {number}"
        polls.append(Poll(run_id, "a", polled_at, polled_at + timedelta(seconds=0.1), "success"))
        due_at = polled_at - timedelta(seconds=0.4)
        batches.append(Batch(run_id, "SUCCESS", due_at, due_at, due_at, polled_at))
    return judge([race], polls, batches, began_at + timedelta(seconds=ended_s), outages)


def test_a_race_polled_every_15_seconds_is_polled_well() -> None:
    verdict = judge_polls([0.4, 15.4, 30.4, 45.4])

    assert (verdict.missed, verdict.twice) == ([], [])
    assert verdict.last_minutes_gaps_s == pytest.approx([15, 15, 15])
    assert verdict.lags_s == pytest.approx([0.5] * 4)


def test_a_gap_beyond_the_interval_is_a_missed_poll() -> None:
    assert len(judge_polls([0.4, 30.4, 45.4]).missed) == 1


def test_two_polls_in_one_slot_are_one_too_many() -> None:
    assert len(judge_polls([0.4, 14.4, 15.4, 30.4, 45.4]).twice) == 1


def test_an_answer_that_arrives_in_the_slot_of_the_next_poll_is_not_one_too_many() -> None:
    due_at = [BEGAN_AT, BEGAN_AT + timedelta(seconds=15)]
    polls, batches = [], []
    for number, arrived_s in enumerate((15.5, 16)):
        at = BEGAN_AT + timedelta(seconds=arrived_s)
        polls.append(Poll(f"run {number}", "a", at, at, "success"))
        batches.append(Batch(f"run {number}", "SUCCESS", due_at[number], due_at[number], None, None))
    assert judge([RACE], polls, batches, BEGAN_AT + timedelta(seconds=20)).twice == []


def test_a_race_that_falls_silent_is_missed() -> None:
    assert judge_polls([0.4, 15.4]).missed == ["a: silent since 01:58:15"]


@pytest.mark.parametrize("status", ["final", "abandoned"])
def test_a_race_that_is_over_may_fall_silent(status: str) -> None:
    assert judge_polls([0.4, 15.4], race=LiveRace("a", START, status)).missed == []


@pytest.mark.parametrize(("minutes", "interval_s"), [(10, 30), (60, 60)])
def test_a_race_further_away_has_a_longer_interval(minutes: int, interval_s: int) -> None:
    began_at = START - timedelta(minutes=minutes)

    assert judge_polls([0.4, interval_s + 0.4], began_at=began_at, ended_s=interval_s + 10).missed == []
    assert judge_polls([0.4, interval_s + 5], began_at=began_at, ended_s=interval_s + 10).missed != []


def test_what_an_outage_cost_is_no_miss_but_is_shown() -> None:
    outages = [Outage(BEGAN_AT + timedelta(seconds=10), BEGAN_AT + timedelta(seconds=40))]
    verdict = judge_polls([0.4, 15.4, 45.4], outages=outages)

    assert verdict.missed == []
    assert verdict.outage_gaps_s == pytest.approx([15, 30])


def test_an_outage_excuses_no_more_than_its_own_length() -> None:
    outages = [Outage(BEGAN_AT + timedelta(seconds=20), BEGAN_AT + timedelta(seconds=40))]

    assert len(judge_polls([0.4, 15.4, 60.4], outages=outages, ended_s=61).missed) == 1
    assert len(judge_polls([0.4, 15.4], outages=outages, ended_s=61).missed) == 1


def test_polls_outside_the_live_lane_are_left_out_of_it() -> None:
    poll = Poll("by hand", "a", BEGAN_AT, BEGAN_AT, "success")

    assert judge([RACE], [poll], [], BEGAN_AT + timedelta(minutes=1)).polls == 0
