"""Two minutes of a real race day: ``raceday up`` polls on its own, two processes are killed in the middle, and somebody
starts a backfill of partitions in the UI."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.cadence import OVER
from benchmarks.live_day import open_live_day
from benchmarks.soak import Soaked, soak, wait_for_batches
from raceday_dagster_tests.integration.web.web_fixture import Web

SPAN = timedelta(minutes=2)
LATENCY_MS = 100
BACKFILL = """
mutation Backfill($partitions: [String!]) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "process_race_partition_set",
      repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "raceday_dagster"}
    },
    partitionNames: $partitions
  }) { __typename ... on LaunchBackfillSuccess { backfillId } }
}
"""
FOUND = """
query Found($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status partitionStatusCounts { runStatus count } }
  }
}
"""
BACKFILLED_RACES = 3


@dataclass(frozen=True)
class TwoMinutes:
    """What they came to."""

    soaked: Soaked
    backfill: Mapping[str, Any]
    """As the UI shows it at the end."""
    backfilled: Collection[str]
    """Races of it that the ledger has under a run outside the live lane."""


@pytest.fixture(scope="module")
def two_minutes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoMinutes]:
    """A live day in which the daemon and later a run are killed, while a backfill goes on."""
    with open_live_day(tmp_path_factory.mktemp("live"), latency_ms=LATENCY_MS) as day:
        wait_for_batches(day)
        web = Web(f"http://127.0.0.1:{day.port}")
        race_ids = sorted({poll.race_id for poll in day.read_polls()})[:BACKFILLED_RACES]
        began_at = datetime.now(UTC)
        launched = web.ask(BACKFILL, {"partitions": race_ids})["launchPartitionBackfill"]
        soaked = soak(day, SPAN, kills=True)
        live = {batch.run_id for batch in day.read_batches()}
        by_hand = {poll.race_id for poll in soaked.polls if poll.run_id not in live and poll.polled_at > began_at}
        backfill = web.ask(FOUND, {"id": launched["backfillId"]})["partitionBackfillOrError"]
        yield TwoMinutes(soaked, backfill, by_hand & set(race_ids))


@pytest.fixture(scope="module")
def soaked(two_minutes: TwoMinutes) -> Soaked:
    """The polls of the two minutes, judged."""
    return two_minutes.soaked


def test_several_races_were_in_their_last_five_minutes_at_once(soaked: Soaked) -> None:
    assert soaked.verdict.most_live_at_once >= 2


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
    assert {batch.status for batch in soaked.batches} <= {"SUCCESS", "FAILURE", "STARTING", "STARTED"}


def test_a_backfill_of_partitions_goes_through_beside_the_live_batches(two_minutes: TwoMinutes) -> None:
    counts = {entry["runStatus"]: entry["count"] for entry in two_minutes.backfill["partitionStatusCounts"]}

    assert two_minutes.backfill["status"] == "COMPLETED_SUCCESS"
    assert counts["SUCCESS"] == BACKFILLED_RACES
    assert len(two_minutes.backfilled) == BACKFILLED_RACES
