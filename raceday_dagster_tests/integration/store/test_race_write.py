"""What one poll of one race leaves in the tables, and what a second one changes."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.outcomes import RowCounts
from raceday_dagster.racing.snapshots import PoolsRow, ResultsRow
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.store_fixture import (
    ROW_TIMES,
    observe,
    read_tables,
    watch_statements,
    write,
)
from raceday_dagster_tests.write_snapshots import (
    START,
    make_results,
    make_snapshot,
    with_entrants,
    without,
)


def read_times(database_url: str) -> dict[str, Any]:
    return {
        table: [(row["created_at"], row["updated_at"]) for row in rows]
        for table, rows in read_tables(database_url, without=set()).items()
        if rows and rows[0].keys() >= ROW_TIMES
    }


def test_one_poll_fills_every_table_of_the_race(store: RaceStore, database_url: str) -> None:
    snapshot = make_snapshot(race={"status": "interim"}, results=make_results())
    report = write(store, snapshot)
    assert report.status == "written"
    assert report.row_counts == RowCounts(
        meetings=1, races=1, entrants=8, race_pools=1, money_flow_history=8, odds_history=16, race_results=1
    )
    tables = read_tables(database_url)
    [meeting], [race] = tables["meetings"], tables["races"]
    assert (meeting["status"], meeting["racing_day"], meeting["weather"]) == ("active", date(2025, 7, 17), "FINE")
    assert (race["status"], race["distance"], race["video_channels"]) == ("interim", 1400, ["Trackside1"])
    assert race["last_poll_time"] == snapshot.polling_timestamp
    assert race["api_generated_time"] == race["last_status_change"] == snapshot.event_timestamp
    assert tables["entrants"][0]["runner_change"] == {"17/07/2025": "Blinkers on"}
    assert tables["entrants"][0]["hold_percentage"] == Decimal("18.00")
    assert tables["race_pools"][0]["currency"] == "NZD"
    assert tables["race_results"][0]["dividends"] == [{"product_name": "Pool Win", "dividend": "6.60"}]


def test_the_ledger_row_is_of_the_same_transaction(store: RaceStore, database_url: str) -> None:
    report = write(store, make_snapshot(), run_id="run-7")
    [row] = read_tables(database_url)["race_polls"]
    counts = report.row_counts.model_dump()
    assert (row["run_id"], row["status"], row["quality_score"]) == ("run-7", "success", 100)
    assert {f"{table}_rows": counts[table] for table in counts}.items() <= row.items()
    assert row["total_ms"] == 330 + row["write_ms"]
    assert set(report.breakdown_ms) >= {"checkout", "lock", "entrants", "race_polls", "commit"}


def test_the_same_answer_again_adds_and_changes_nothing(store: RaceStore, database_url: str) -> None:
    snapshot = make_snapshot(race={"status": "interim"}, results=make_results())
    write(store, snapshot, run_id="one")
    before, times = read_tables(database_url), read_times(database_url)
    for run_id in ("one", "two"):
        assert write(store, snapshot, run_id=run_id).row_counts.total == 0
    after = read_tables(database_url)
    assert [row["run_id"] for row in after.pop("race_polls")] == ["one", "two"]
    before.pop("race_polls")
    assert after == before
    assert read_times(database_url) == times


def test_a_newer_answer_with_the_same_content_is_an_observation_and_no_change(
    store: RaceStore, database_url: str
) -> None:
    write(store, make_snapshot(results=make_results(), race={"status": "interim"}), run_id="one")
    times = read_times(database_url)
    newer = make_snapshot(poll=1, results=make_results(), race={"status": "interim"})
    report = write(store, newer, run_id="two")
    assert report.row_counts == RowCounts(money_flow_history=8)
    assert read_times(database_url) == times
    [race] = read_tables(database_url)["races"]
    assert (race["last_poll_time"], race["api_generated_time"]) == (newer.polling_timestamp, newer.event_timestamp)


def test_only_the_runner_that_changed_is_touched(store: RaceStore, database_url: str) -> None:
    first = make_snapshot()
    write(store, first, run_id="one")
    times = read_times(database_url)["entrants"]
    changed = first.entrants[2].model_copy(update={"jockey": "Another"})
    newer = with_entrants(make_snapshot(poll=1), [*first.entrants[:2], changed, *first.entrants[3:]])
    assert write(store, newer, run_id="two").row_counts.entrants == 1
    moved = [number for number, row in enumerate(read_times(database_url)["entrants"]) if row != times[number]]
    assert moved == [2]


def test_an_older_answer_writes_its_ledger_row_and_nothing_else(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(poll=2), run_id="newer")
    before = read_tables(database_url)
    report = write(store, make_snapshot(poll=1, win_cents=1, race={"status": "final"}), run_id="older")
    assert (report.status, report.row_counts.total) == ("stale", 0)
    assert report.error is not None
    assert "stale" in report.error.message
    after = read_tables(database_url)
    older, _newer = sorted(after["race_polls"], key=lambda row: row["polled_at"])
    assert (older["status"], older["error_stage"], older["retryable"]) == ("skipped", "write", False)
    assert {name: after[name] for name in after if name != "race_polls"} == {
        name: before[name] for name in before if name != "race_polls"
    }


def test_a_field_the_payload_does_not_carry_keeps_what_is_stored(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    before = read_tables(database_url)
    poorer = make_snapshot(poll=1, pools=False)
    poorer = poorer.model_copy(
        update={
            "meeting": without(poorer.meeting, "weather"),
            "race": without(poorer.race, "distance", "status", "video_channels"),
            "entrants": tuple(
                without(entrant, "jockey", "hold_percentage", "fixed_win_odds") for entrant in poorer.entrants
            ),
        }
    )
    assert write(store, poorer, run_id="two").row_counts == RowCounts(money_flow_history=8)
    after = read_tables(database_url)
    for table in ("meetings", "entrants", "race_pools"):
        assert after[table] == before[table]


def test_a_field_the_payload_empties_is_emptied(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    write(store, make_snapshot(poll=1, entrant={"fixed_win_odds": None, "jockey": None}), run_id="two")
    entrants = read_tables(database_url)["entrants"]
    assert {(row["fixed_win_odds"], row["jockey"]) for row in entrants} == {(None, None)}


def test_an_entrant_stays_in_the_race_that_first_listed_it(store: RaceStore, database_url: str) -> None:
    victim, thief = make_snapshot("race-v"), make_snapshot("race-t", poll=1, win_cents=1, odds={})
    write(store, victim, run_id="one")
    before = read_tables(database_url)
    mixed = thief.model_copy(
        update={
            "entrants": (
                *(row.model_copy(update={"race_id": "race-t"}) for row in victim.entrants[:3]),
                *thief.entrants[:2],
            ),
            "money_flow": (*victim.money_flow[:3], *thief.money_flow[:2]),
            "odds": [
                row for row in victim.odds if row.entrant_id in {foreign.entrant_id for foreign in victim.entrants[:3]}
            ],
        }
    )
    report = write(store, mixed, run_id="two")
    assert (report.status, report.foreign_entrants) == ("written", 3)
    assert (report.row_counts.entrants, report.row_counts.money_flow_history) == (2, 2)
    after = read_tables(database_url)
    for table in ("entrants", "money_flow_history", "odds_history"):
        assert [row for row in after[table] if not row["entrant_id"].startswith("race-t")] == before[table]


def test_an_entrant_that_a_newer_answer_lacks_is_withdrawn_until_it_returns(
    store: RaceStore, database_url: str
) -> None:
    def read_withdrawn() -> list[Any]:
        return [row["withdrawn_at"] for row in read_tables(database_url)["entrants"]]

    whole, without_one = make_snapshot(), make_snapshot(poll=1, holds={1: 18})
    write(store, make_snapshot(holds={1: 18, 2: 13}), run_id="one")
    write(store, with_entrants(make_snapshot(poll=1), ()), run_id="nobody-listed")
    assert read_withdrawn() == [None, None]
    lacking = without_one.model_copy(update={"event_timestamp": START})
    unclear = lacking.model_copy(
        update={"event_timestamp": START - timedelta(milliseconds=1), "has_unreadable_runner": True}
    )
    write(store, unclear, run_id="one-unreadable")
    assert read_withdrawn() == [None, None]
    assert write(store, lacking, run_id="two").row_counts.entrants == 1
    assert read_withdrawn() == [None, START]
    assert write(store, lacking, run_id="again").row_counts.entrants == 0
    write(store, whole, run_id="older")
    assert read_withdrawn() == [None, START]
    flow = [row for row in read_tables(database_url)["money_flow_history"] if row["entrant_id"] == "race-1-02"]
    assert len(flow) == 2
    back = make_snapshot(holds={1: 18, 2: 13}, generated_at=START + timedelta(seconds=15))
    write(store, back, run_id="three")
    assert read_withdrawn() == [None, None]


def test_runners_that_carry_different_fields_take_one_statement(store: RaceStore) -> None:
    snapshot = make_snapshot()
    mixed = [
        without(entrant, "jockey") if number % 3 == 0 else without(entrant, "barrier") if number % 3 == 1 else entrant
        for number, entrant in enumerate(snapshot.entrants)
    ]
    with watch_statements(store.engine) as statements:
        report = write(store, with_entrants(snapshot, mixed))
    assert report.row_counts.entrants == 8
    assert sum("INSERT INTO entrants" in statement for statement in statements.sent) == 1
    assert len(statements.sent) == 10


def test_a_final_result_is_not_overwritten_by_an_interim_one(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(race={"status": "final"}, results=make_results("final", winner=2)), run_id="one")
    later = make_snapshot(poll=1, race={"status": "final"}, results=make_results("interim", winner=5))
    assert write(store, later, run_id="two").row_counts.race_results == 0
    corrected = make_snapshot(poll=2, race={"status": "final"}, results=make_results("final", winner=3))
    assert write(store, corrected, run_id="three").row_counts.race_results == 1
    assert read_tables(database_url)["race_results"][0]["results"][0]["runner_number"] == 3


def test_pools_of_dividends_never_replace_those_of_the_tote(store: RaceStore, database_url: str) -> None:
    first, second = make_snapshot(), make_snapshot(poll=1, win_cents=1)
    assert second.pools is not None
    declared = second.model_copy(update={"pools": second.pools.model_copy(update={"source": "dividends"})})
    write(store, first, run_id="one")
    before = read_tables(database_url)["race_pools"]
    assert write(store, declared, run_id="two").row_counts.race_pools == 0
    assert read_tables(database_url)["race_pools"] == before


def test_a_row_of_few_columns_is_inserted_with_defaults_and_erases_nothing(store: RaceStore, database_url: str) -> None:
    few = {"result_status": "interim", "result_time": START}
    pools = {"source": "tote_pools", "data_quality_score": 50, "extracted_pools": 0}
    poor = make_snapshot().model_copy(
        update={"results": ResultsRow(**few), "pools": PoolsRow(**pools), "race": without(make_snapshot().race, "name")}
    )
    write(store, poor, run_id="one")
    tables = read_tables(database_url)
    assert [tables["race_results"][0][name] for name in ("results", "dividends", "fixed_odds")] == [[], [], {}]
    assert (tables["race_pools"][0]["win_pool_total"], tables["races"][0]["name"]) == (0, "")
    write(store, make_snapshot(poll=1, results=make_results()), run_id="two")
    rich = read_tables(database_url)
    poorer = make_snapshot(poll=2).model_copy(update={"results": ResultsRow(**few), "pools": PoolsRow(**pools)})
    write(store, poorer, run_id="three")
    after = read_tables(database_url)
    assert after["race_results"] == rich["race_results"]
    assert after["race_pools"][0]["win_pool_total"] == rich["race_pools"][0]["win_pool_total"] > 0


def test_an_id_no_index_takes_is_a_short_typed_error(store: RaceStore) -> None:
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(160))
    with pytest.raises(WriteError, match="54000") as caught:
        write(store, make_snapshot(noise))
    assert len(caught.value.message) < 400


def test_every_value_arrives_as_it_was(store: RaceStore, database_url: str) -> None:
    name = 'O\'Brien "%s %(x)s" {0} \\ ; DROP TABLE races; -- \N{SNOWMAN}' + "x" * 10_000
    scratched_at = datetime(2025, 7, 16, 22, 5, 7, 123456, tzinfo=UTC)
    snapshot = make_snapshot(
        entrant={"name": name, "scratched_at": scratched_at, "deduction_win": Decimal("0.0525")},
        race={"total_prize_money": Decimal("9999999999.99"), "start_time": START + timedelta(microseconds=1)},
    )
    write(store, snapshot)
    tables = read_tables(database_url)
    row = tables["entrants"][0]
    assert (row["name"], row["scratched_at"], row["deduction_win"]) == (name, scratched_at, Decimal("0.0525"))
    assert tables["races"][0]["total_prize_money"] == Decimal("9999999999.99")
    assert tables["races"][0]["start_time"] == START + timedelta(microseconds=1)


def test_unchanged_rows_of_the_meeting_are_not_locked(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    with observe(database_url) as run:
        run("BEGIN")
        run("SELECT FROM meetings, entrants FOR NO KEY UPDATE")
        try:
            assert write(store, make_snapshot(poll=1), run_id="two", deadline_s=5).row_counts.money_flow_history == 8
        finally:
            run("ROLLBACK")
