"""Two processes that poll one race: whatever the order in which their answers arrive, the history adds up to what the
tables say; and the campaign's judge sees it when it does not.

A write holds the race's lock from its first statement to its commit, as `test_concurrency` shows. So what two processes
can do to each other is an order of whole writes, and there are few enough orders to try all of them.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from benchmarks.promises import FALSE_COUNTS, FALSE_SUMS
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.store_fixture import (
    observe,
    read_tables,
    write,
)
from raceday_dagster_tests.write_snapshots import FIRST_POLL, make_snapshot, share_of

ONE, OTHER = 3, 2
"""Answers of each process."""
ORDERS = [[0 if turn in first else 1 for turn in range(ONE + OTHER)] for first in combinations(range(ONE + OTHER), ONE)]
"""Which of the two writes next, in every way there is."""
FEEDS = {
    "one answer each in turn": ([0, 20, 40], [10, 30]),
    "two answers of each instant": ([0, 20, 40], [20, 40]),
    "the other's answers are older": ([20, 40, 60], [0, 10]),
}
"""Seconds of the feed's clock at the answers of each process."""


def make_answer(race_id: str, made_at_s: int, writer: int, *, is_last: bool) -> RaceSnapshot:
    """An answer with amounts of its own; the last of each writer says that the race is over."""
    made_at = FIRST_POLL + timedelta(seconds=made_at_s)
    win, place = 100_001 + 37 * made_at_s - 11 * writer, 50_003 - 13 * made_at_s + 7 * writer
    amounts = {"win_pool_amount": share_of(win, 18), "place_pool_amount": share_of(place, 18)}
    return make_snapshot(
        race_id,
        holds={1: 18},
        win_cents=win,
        place_cents=place,
        generated_at=made_at,
        # The clock of one process is ahead of the other's.
        polled_at=made_at + timedelta(seconds=1 + 3 * writer),
        race={"status": "final" if is_last else "open"},
        entrant=amounts,
    )


@pytest.mark.parametrize("feed", FEEDS)
def test_increments_add_up_to_the_present_amounts_in_every_order_of_two_pollers(
    store: RaceStore, database_url: str, feed: str
) -> None:
    newest_wins = []
    for number, order in enumerate(ORDERS):
        answers = [
            [make_answer(f"race-{number}", at_s, writer, is_last=at_s == times[-1]) for at_s in times]
            for writer, times in enumerate(FEEDS[feed])
        ]
        newest = max(answer.event_timestamp for own in answers for answer in own)
        for turn, writer in enumerate(order):
            write(store, answers[writer].pop(0), run_id=f"run-{writer}-{turn}")
        newest_wins.append(newest)
    assert len(ORDERS) == 10
    with observe(database_url) as run:
        assert run(FALSE_SUMS) == []
        assert run(FALSE_COUNTS) == []
    tables = read_tables(database_url)
    assert [row["api_generated_time"] for row in tables["races"]] == newest_wins
    assert len({(row["race_id"], row["win_pool_amount"]) for row in tables["money_flow_history"]}) > 2 * len(ORDERS)


TAMPERED: dict[str, tuple[list[Any], list[Any]]] = {
    "UPDATE money_flow_history SET incremental_win_amount = incremental_win_amount + 1": ([("race-1 Runner 1",)], []),
    "UPDATE entrants SET place_pool_amount = place_pool_amount - 1": ([("race-1 Runner 1",)], []),
    "DELETE FROM odds_history": ([], [("race-1",)]),
    "DELETE FROM race_polls": ([], [("race-1",)]),
}


@pytest.mark.parametrize("damage", TAMPERED)
def test_rows_that_do_not_add_up_are_found(store: RaceStore, database_url: str, damage: str) -> None:
    write(store, make_answer("race-1", 0, 0, is_last=False))
    with observe(database_url) as run:
        assert (run(FALSE_SUMS), run(FALSE_COUNTS)) == ([], [])
        run(damage)
        assert (run(FALSE_SUMS), run(FALSE_COUNTS)) == TAMPERED[damage]
