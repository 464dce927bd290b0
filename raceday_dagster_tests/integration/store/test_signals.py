"""Signals from what is really stored: which rows are compared, what is written, who hears of it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

from raceday_dagster.racing.signals import Signal, Thresholds
from raceday_dagster.racing.snapshots import Quality, RaceSnapshot
from raceday_dagster.store.race_store import FoundSignals, RaceStore, StoredPoll
from raceday_dagster.store.signals import READ_FLOW
from raceday_dagster_tests.integration.store.store_fixture import hear, observe, read_tables, write
from raceday_dagster_tests.write_snapshots import FIRST_POLL, HOLDS, START, make_snapshot

DEFAULTS = Thresholds()


def make_poll(seconds_to_start: int, holds: dict[int, int], **changed: Any) -> RaceSnapshot:
    """A poll as the transform makes it, so many seconds before the start."""
    made_at = START - timedelta(seconds=seconds_to_start)
    interval = Decimal(5 * (seconds_to_start // 300) if seconds_to_start >= 300 else seconds_to_start // 60)
    snapshot = make_snapshot(holds=holds, generated_at=made_at, **changed)
    return snapshot.model_copy(update={"time_interval": interval})


def find(store: RaceStore, snapshot: RaceSnapshot) -> FoundSignals:
    poll = StoredPoll(race_id=snapshot.race_id, polled_at=snapshot.polling_timestamp, start_time=START)
    return store.add_signals([poll], DEFAULTS)


def judge(store: RaceStore, snapshot: RaceSnapshot) -> list[Signal]:
    return list(find(store, snapshot).signals)


def poll_and_judge(store: RaceStore, snapshot: RaceSnapshot) -> list[Signal]:
    write(store, snapshot, run_id=f"run {snapshot.polling_timestamp}")
    return judge(store, snapshot)


def test_late_money_is_stored_with_what_it_was_computed_from(store: RaceStore, database_url: str) -> None:
    for seconds in (75, 60):
        assert not poll_and_judge(store, make_poll(seconds, HOLDS))
    last = make_poll(45, HOLDS | {3: 11, 6: 13})
    signals = poll_and_judge(store, last)
    assert [(signal.runner_number, signal.kind, signal.change, signal.is_strong) for signal in signals] == [
        (3, "share", 6, True),
        (6, "share", -6, True),
    ]
    stored = read_tables(database_url)["market_signals"]
    assert [row["change"] for row in stored] == [6, -6]
    assert stored[0]["polling_timestamp"] - stored[0]["compared_with"] == timedelta(seconds=30)
    assert stored[0]["computed_from"] == {"hold_percentage": {"before": 5.0, "now": 11.0}}
    assert (stored[0]["tier"], stored[0]["time_to_start_s"], stored[0]["time_interval"]) == ("5-10", 45, 0)


def test_the_same_poll_a_second_time_adds_no_signal_and_tells_nobody(store: RaceStore, database_url: str) -> None:
    for snapshot in (make_poll(75, HOLDS), make_poll(60, HOLDS)):
        write(store, snapshot, run_id=str(snapshot.polling_timestamp))
    last = make_poll(45, HOLDS | {3: 11, 6: 13})
    write(store, last)
    with hear(database_url) as heard:
        first, second = find(store, last), find(store, last)
        told = heard()
    assert first.signals == second.signals == first.news
    assert not second.news
    assert len(read_tables(database_url)["market_signals"]) == len(first.signals) == 2
    assert told == [{"race_id": "race-1", "polled_at": told[0]["polled_at"], "status": "signals"}]


def test_a_signal_that_goes_on_is_stored_again_and_no_news_until_its_tier_changes(store: RaceStore) -> None:
    shares = {75: 5, 60: 5, 45: 11, 30: 12, 15: 22}
    news = {}
    for seconds, share in shares.items():
        write(store, snapshot := make_poll(seconds, HOLDS | {3: share}), run_id=str(seconds))
        found = find(store, snapshot)
        news[seconds] = (len(found.signals), len(found.news))
    assert news == {75: (0, 0), 60: (0, 0), 45: (1, 1), 30: (1, 0), 15: (1, 1)}


def test_a_price_is_compared_with_the_one_five_minutes_ago(store: RaceStore) -> None:
    for seconds in (360, 345, 60, 45):
        snapshot = make_poll(seconds, HOLDS)
        price = Decimal("7.00") if seconds < 100 else Decimal("12.00")
        money = (snapshot.money_flow[0].model_copy(update={"fixed_win_odds": price}), *snapshot.money_flow[1:])
        signals = poll_and_judge(store, snapshot.model_copy(update={"money_flow": money}))
    (signal,) = signals
    assert (signal.kind, signal.runner_number, signal.change) == ("price", 1, Decimal("41.67"))


def test_money_counts_by_interval(store: RaceStore) -> None:
    grown = [(375, 100_000), (330, 200_000), (310, 300_000), (285, 400_000), (270, 500_000)]
    for seconds, win_cents in grown:
        holds = {1: 50, 2: 50} if seconds > 280 else {1: 60, 2: 40}
        signals = poll_and_judge(store, make_poll(seconds, holds, win_cents=win_cents, place_cents=None))
    (money,) = [signal for signal in signals if signal.kind == "money"]
    assert (money.runner_number, money.value_before, money.value_now) == (1, 50, 75)
    assert money.computed_from["money_cents"] == {"before": 100_000, "now": 150_000}


def test_a_poll_of_low_quality_is_not_judged_nor_compared_with(store: RaceStore) -> None:
    poor = {"quality": Quality(score=70, valid=False)}
    assert not poll_and_judge(store, make_poll(75, HOLDS))
    assert not poll_and_judge(store, make_poll(45, HOLDS | {3: 11, 6: 13}).model_copy(update=poor))
    assert not poll_and_judge(store, make_poll(15, HOLDS))
    assert poll_and_judge(store, make_poll(-15, HOLDS | {3: 11, 6: 13}))


def test_a_signal_after_a_scratching_is_marked_and_the_scratched_runner_has_none(store: RaceStore) -> None:
    for seconds in (75, 60):
        poll_and_judge(store, make_poll(seconds, HOLDS))
    scratched_at = START - timedelta(seconds=50)
    last = make_poll(45, HOLDS | {6: 0, 1: 27, 2: 17})
    entrants = [
        entrant.model_copy(update={"is_scratched": True, "scratched_at": scratched_at})
        if entrant.runner_number == 6
        else entrant
        for entrant in last.entrants
    ]
    signals = poll_and_judge(store, last.model_copy(update={"entrants": tuple(entrants)}))
    assert [(signal.runner_number, signal.after_scratching) for signal in signals] == [(1, True), (2, True)]


def test_an_answer_that_brought_nothing_new_is_not_judged(store: RaceStore) -> None:
    for snapshot in (make_poll(75, HOLDS), make_poll(45, HOLDS | {3: 11, 6: 13})):
        write(store, snapshot, run_id=str(snapshot.polling_timestamp))
    again = make_poll(45, HOLDS | {3: 11, 6: 13}, polled_at=START - timedelta(seconds=30))
    assert not poll_and_judge(store, again)


def test_the_polls_of_a_race_are_found_by_an_index_of_its_day_alone(store: RaceStore, database_url: str) -> None:
    write(store, snapshot := make_poll(75, HOLDS))
    asked = {"race_id": "race-1", "polled_at": str(snapshot.polling_timestamp), "since": str(FIRST_POLL)}
    with observe(database_url) as run:
        run("SET enable_seqscan = off")
        values = {"asked": json.dumps([asked]), "days": [START.date()]}
        plan = "\n".join(line for (line,) in run(f"EXPLAIN {READ_FLOW}", values))
    assert set(re.findall(r"on (money_flow_history_\w+)", plan)) == {f"money_flow_history_{START:%Y_%m_%d}"}
    assert "Seq Scan" not in plan
    assert "polling_timestamp <= asked.polled_at" in plan
