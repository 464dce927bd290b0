"""Two minutes of a real race day: ``raceday up`` with nobody touching it, and two processes killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from benchmarks.cadence import OVER
from benchmarks.live_day import open_live_day
from benchmarks.soak import Soaked, soak

SPAN = timedelta(minutes=2)
LATENCY_MS = 100


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soaked]:
    """What two minutes came to, in which the daemon and later a run were killed."""
    with open_live_day(tmp_path_factory.mktemp("live"), latency_ms=LATENCY_MS) as day:
        yield soak(day, SPAN, kills=True)


def test_several_races_were_in_their_last_five_minutes_at_once(soaked: Soaked) -> None:
    assert soaked.verdict.most_live_at_once >= 2
    assert soaked.verdict.races > 20


def test_every_due_poll_happened_and_none_twice(soaked: Soaked) -> None:
    assert soaked.verdict.missed == []
    assert soaked.verdict.twice == []
    assert soaked.verdict.last_minutes_gaps_s


def test_a_killed_daemon_is_replaced_and_no_race_is_lost(soaked: Soaked) -> None:
    # That each race was polled again in time is in the verdict; here is that there was something to lose.
    killed = soaked.outages[0]

    assert [batch for batch in soaked.batches if batch.due_at < killed.began_at]
    assert [batch for batch in soaked.batches if batch.created_at > killed.began_at]


def test_a_killed_run_leaves_no_half_race_and_the_next_poll_converges(soaked: Soaked) -> None:
    (killed,) = [batch for batch in soaked.batches if batch.status == "FAILURE"]
    done = {poll.race_id for poll in soaked.polls if poll.run_id == killed.run_id}
    later = {poll.race_id for poll in soaked.polls if poll.run_id != killed.run_id and poll.polled_at > killed.due_at}
    over = {race.race_id for race in soaked.races if race.status in OVER}
    lost = set(killed.race_ids) - done

    assert lost, "the run was killed after its work: the fault did not fire"
    assert soaked.half_races == []
    assert lost <= later | over


def test_nothing_but_the_killed_run_failed(soaked: Soaked) -> None:
    assert soaked.verdict.failed == []
    assert {batch.status for batch in soaked.batches} <= {"SUCCESS", "FAILURE", "STARTED"}
