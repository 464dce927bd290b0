"""The ledger: every poll once, every batch once, failures included."""

from __future__ import annotations

from datetime import UTC, datetime

from raceday_dagster.racing.outcomes import (
    BatchOutcome,
    ConnectionUse,
    ItemError,
    ProcessResult,
    RowCounts,
    Timings,
    WorkerUse,
)
from raceday_dagster.store.race_store import PollRun, RaceStore
from raceday_dagster_tests.integration.store.store_fixture import read_tables, write
from raceday_dagster_tests.write_snapshots import make_snapshot

AT = datetime(2025, 7, 17, 2, 50, tzinfo=UTC)


def make_failure(race_id: str, *, polled_at: datetime = AT, message: str = "503 three times") -> ProcessResult:
    return ProcessResult(
        race_id=race_id,
        status="failed",
        polled_at=polled_at,
        timings=Timings(fetch_ms=900, total_ms=910),
        error=ItemError(stage="fetch", type="FetchError", message=message, retryable=True),
    )


def make_batch(*races: ProcessResult) -> BatchOutcome:
    return BatchOutcome.of(
        races,
        started_at=AT,
        batch_duration_ms=950,
        requested_concurrency=5,
        effective_concurrency=4,
        db_pool=ConnectionUse(max=10, peak=4),
        workers=WorkerUse(total=3, busy_peak=2, queue_depth_peak=1, restarts=0),
    )


def test_a_failure_is_recorded_once_with_its_reason(store: RaceStore, database_url: str) -> None:
    for _ in range(2):
        store.record_poll(make_failure("race-9"), PollRun(run_id="run-1"))
    [row] = read_tables(database_url)["race_polls"]
    assert (row["status"], row["error_stage"], row["error_type"]) == ("failed", "fetch", "FetchError")
    assert (row["error_message"], row["retryable"]) == ("503 three times", True)
    assert (row["fetch_ms"], row["total_ms"], row["polled_at"]) == (900, 910, AT)


def test_a_committed_success_is_not_replaced_by_a_failure_that_only_looked_like_one(
    store: RaceStore, database_url: str
) -> None:
    write(store, make_snapshot(), run_id="run-1")
    store.record_poll(make_failure("race-1"), PollRun(run_id="run-1"))
    assert read_tables(database_url)["race_polls"][0]["status"] == "success"


def test_a_success_replaces_a_failure_of_the_same_run(store: RaceStore, database_url: str) -> None:
    store.record_poll(make_failure("race-1"), PollRun(run_id="run-1"))
    write(store, make_snapshot(), run_id="run-1")
    [row] = read_tables(database_url)["race_polls"]
    assert (row["status"], row["error_stage"], row["money_flow_history_rows"]) == ("success", None, 8)


def test_a_reason_with_text_postgresql_refuses_is_recorded_all_the_same(store: RaceStore, database_url: str) -> None:
    store.record_poll(make_failure("race-\x00", message="it said \x00 and \ud800"), PollRun(run_id="run-\x00"))
    [row] = read_tables(database_url)["race_polls"]
    assert row["error_message"] == "it said \N{REPLACEMENT CHARACTER} and ?"


def test_a_batch_is_recorded_once_and_fills_what_the_ledger_misses(store: RaceStore, database_url: str) -> None:
    report = write(store, make_snapshot(), run_id="run-1")
    done = ProcessResult(race_id="race-1", status="success", polled_at=AT, row_counts=RowCounts(races=99))
    skipped = ProcessResult(race_id="race-2", status="skipped", polled_at=AT)
    outcome = make_batch(done, skipped, make_failure("race-3"))
    for _ in range(2):
        store.record_batch(PollRun(run_id="run-1"), outcome)
    tables = read_tables(database_url)
    assert [(row["race_id"], row["status"]) for row in tables["race_polls"]] == [
        ("race-1", "success"),
        ("race-2", "skipped"),
        ("race-3", "failed"),
    ]
    assert tables["race_polls"][0]["races_rows"] == report.row_counts.races == 1
    assert tables["batches"] == [
        {
            "run_id": "run-1",
            "started_at": AT,
            "total_races": 3,
            "successes": 1,
            "skipped": 1,
            "failures": 1,
            "retryable_failures": 1,
            "max_duration_ms": 910,
            "batch_duration_ms": 950,
            "over_budget": False,
            "requested_concurrency": 5,
            "effective_concurrency": 4,
            "pool_max": 10,
            "pool_peak": 4,
        }
    ]


def test_an_empty_batch_is_recorded_too(store: RaceStore, database_url: str) -> None:
    store.record_batch(PollRun(run_id="run-1"), make_batch())
    assert read_tables(database_url)["batches"][0]["total_races"] == 0


def test_ids_no_index_takes_cost_no_race_its_ledger_row(store: RaceStore, database_url: str) -> None:
    noise = "".join(str(number) for number in range(3_000))
    ids = [noise, f"{noise}!", "race-\x00", "race-\N{REPLACEMENT CHARACTER}", "race-\ud800", "race-?", "race-1"]
    outcome = make_batch(*(make_failure(race_id) for race_id in [*ids, "race-1"]))
    for _ in range(2):
        store.record_batch(PollRun(run_id="run-1"), outcome)
    rows = read_tables(database_url)["race_polls"]
    assert len(rows) == len(ids)
    assert max(len(row["race_id"]) for row in rows) < 200
    assert sum(row["race_id"].startswith(noise[:100]) for row in rows) == 2
