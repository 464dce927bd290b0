"""Batches of races through the real job, the real API simulator and the real database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest

from raceday_dagster.defs.resources import RaceStoreResource
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.defs.day_runs import check_stage_timings, read_failure, released_when_five_wait
from raceday_dagster_tests.integration.postgres_fixture import order
from raceday_dagster_tests.integration.race_day import (
    IDENTITY,
    PASSWORD,
    PASSWORD_PARTS,
    ConnectionWatch,
    RaceDay,
    read_log,
)

UNKNOWN = "00000000-0000-4000-8000-000000000000"
BREAK_WRITES = """
    CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '23514'; END $$
"""


def test_five_races_are_in_flight_at_once_and_all_their_rows_arrive(
    day: RaceDay, embedded_postgres: EmbeddedPostgres
) -> None:
    races = day.race_ids[:8]
    with ConnectionWatch(embedded_postgres) as watch, released_when_five_wait(day, "/racing/events/"):
        result = day.poll(races)

    batch = day.read_batch(result.run_id)
    assert day.simulator.requests()["events_in_flight_peak"] == 5
    assert (batch["total_races"], batch["successes"]) == (len(races), len(races))
    assert 1 <= max(watch.samples) <= 10
    assert 1 <= batch["pool_peak"] <= 5
    polls = day.read_polls(result.run_id)
    assert set(polls) == set(races)
    for race_id in races:
        (counts,) = day.ask(
            "SELECT (SELECT count(*) FROM races WHERE race_id = :race) AS races,"
            " (SELECT count(*) FROM entrants WHERE race_id = :race) AS entrants,"
            " (SELECT count(*) FROM race_pools WHERE race_id = :race) AS race_pools,"
            " (SELECT count(*) FROM money_flow_history WHERE race_id = :race) AS money_flow_history,"
            " (SELECT count(*) FROM odds_history WHERE race_id = :race) AS odds_history",
            race=race_id,
        )
        assert all(counts.values()), f"{race_id} has {counts}"
        assert polls[race_id]["money_flow_history_rows"] == counts["money_flow_history"]
        assert polls[race_id]["status"] == "success"


def test_one_bad_race_never_costs_the_others(
    day: RaceDay, capfd: pytest.CaptureFixture[str], database_url: str
) -> None:
    good, unavailable, garbled, unwritable, also_good = day.race_ids[10:15]
    broken = [
        day.simulator.add_fault(unavailable, "status", code=503),
        day.simulator.add_fault(garbled, "garbage"),
    ]
    order(database_url, BREAK_WRITES)
    order(
        database_url,
        f"CREATE TRIGGER break_one BEFORE INSERT ON race_pools FOR EACH ROW WHEN (NEW.race_id = '{unwritable}')"
        " EXECUTE FUNCTION refuse()",
    )
    try:
        result = day.poll([good, UNKNOWN, unavailable, garbled, unwritable, also_good, good])
    finally:
        order(database_url, "DROP TRIGGER break_one ON race_pools")

    assert [day.simulator.fired(rule) > 0 for rule in broken] == [True, True]
    polls = day.read_polls(result.run_id)
    assert {race_id: row["status"] for race_id, row in polls.items()} == {
        **dict.fromkeys((good, also_good), "success"),
        UNKNOWN: "skipped",
        **dict.fromkeys((unavailable, garbled, unwritable), "failed"),
    }
    reasons = ("error_stage", "error_type", "retryable")
    assert {
        race_id: tuple(polls[race_id][name] for name in reasons) for race_id in (unavailable, garbled, unwritable)
    } == {
        unavailable: ("fetch", "FetchError", True),
        garbled: ("fetch", "FetchError", False),
        unwritable: ("write", "WriteError", False),
    }
    batch = day.read_batch(result.run_id)
    assert (batch["total_races"], batch["successes"], batch["skipped"], batch["failures"]) == (6, 2, 1, 3)
    assert not day.ask("SELECT 1 FROM races WHERE race_id = :race", race=unwritable), "a half race is visible"

    lines = read_log(capfd.readouterr().err)
    failed = {line["race_id"]: line for line in lines if line["event"] == "batch_race_failed"}
    assert set(failed) == {unavailable, garbled, unwritable}
    assert all(line["run_id"] == result.run_id for line in lines if "run_id" in line)
    (summary,) = [line for line in lines if line["event"] == "batch_complete"]
    assert (summary["failures"], summary["retryable_failures"]) == (3, 1)
    told = [line["event"] for line in lines if line.get("race_id") == good and line["event"] != "pipeline_over_budget"]
    stages = [event for event in told if event.partition("_")[0] in {"pipeline", "fetch", "transform", "write"}]
    stages = [event for event in stages if "budget" not in event]  # said or not, as busy as the machine is
    assert stages == [
        *("pipeline_start", "fetch_start", "fetch_complete", "transform_start", "transform_complete"),
        *("write_start", "write_complete", "pipeline_complete"),
    ]
    progress = [line for line in lines if line["event"] == "batch_progress"]
    assert [line["completed"] for line in progress] == list(range(1, 7))
    assert all(line["completed"] + line["processing"] + line["pending"] == line["total"] == 6 for line in progress)


def test_a_failed_race_is_easy_to_see_in_the_ui(day: RaceDay) -> None:
    lost = day.race_ids[16]
    day.simulator.add_fault(lost, "garbage")
    result = day.poll([lost, day.race_ids[17]])
    assert result.success
    events = day.instance.all_logs(result.run_id)
    errors = [event for event in events if event.level == 40]
    assert len(errors) == 1
    assert lost in errors[0].user_message
    outputs = [event for event in result.all_events if event.is_successful_output]
    metadata = [output.step_output_data.metadata for output in outputs]
    (described,) = [entry for entry in metadata if "error_stage" in entry]
    assert (described["error_stage"].value, described["retryable"].value) == ("fetch", False)
    (summary,) = [entry for entry in metadata if "races" in entry and "successes" in entry]
    assert lost in str(summary["races"].value)
    run = day.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags["raceday/failed"], run.tags["raceday/failed_races"]) == ("1", lost)

    day.simulator.clear_faults()
    day.poll([lost])
    day.simulator.add_fault(lost, "garbage")
    again = day.instance.get_run_by_id(day.poll([lost]).run_id)
    assert again is not None
    (name,) = day.ask(
        "SELECT meeting_name || ' R' || race_number AS title FROM races JOIN meetings USING (meeting_id)"
        " WHERE race_id = :race",
        race=lost,
    )
    assert again.tags["raceday/failed_races"] == name["title"], "a stored race is named though nothing was read of it"


def test_a_batch_of_nothing_but_unknown_races_is_red(day: RaceDay) -> None:
    """As when the address of the API lacks its version: every request is answered, and none with a race."""
    result = day.poll([UNKNOWN.replace("4000", f"400{number}") for number in range(3)], fail_run_when="all")
    assert not result.success
    assert day.read_batch(result.run_id)["skipped"] == 3


def test_the_summary_is_stored_also_when_every_race_failed_and_then_the_run_fails(day: RaceDay) -> None:
    races = day.race_ids[18:21]
    rule = day.simulator.add_fault("/racing/events/", "status", code=500)
    result = day.poll(races, fail_run_when="all")
    assert day.simulator.fired(rule) == 4 * len(races), "one try and three retries each"
    assert not result.success
    batch = day.read_batch(result.run_id)
    assert (batch["failures"], batch["retryable_failures"], batch["successes"]) == (3, 3, 0)
    step, said = read_failure(result)
    assert step == "summarise_batch"
    assert "3 of 3 races failed" in said


def test_an_empty_batch_is_a_success_that_says_what_to_do(day: RaceDay) -> None:
    result = day.poll([])
    assert result.success
    assert day.read_batch(result.run_id)["total_races"] == 0
    said = [event.user_message for event in day.instance.all_logs(result.run_id)]
    assert any("daily_baseline" in message for message in said)


def test_a_concurrency_above_the_pool_is_lowered_and_said(
    day: RaceDay,
    embedded_postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DB_POOL_MAX", "3")
    with ConnectionWatch(embedded_postgres) as watch:
        result = day.poll(day.race_ids[22:30], max_concurrent=8)
    assert 1 <= max(watch.samples) <= 3
    batch = day.read_batch(result.run_id)
    assert (batch["requested_concurrency"], batch["effective_concurrency"], batch["pool_max"]) == (8, 3, 3)
    assert batch["successes"] == 8
    assert day.simulator.requests()["events_in_flight_peak"] <= 3
    lines = read_log(capfd.readouterr().err)
    (adjusted,) = [line for line in lines if line["event"] == "batch_concurrency_adjusted"]
    assert (adjusted["requested"], adjusted["effective"]) == (8, 3)


def test_no_secret_is_in_a_log_or_in_metadata(day: RaceDay, capfd: pytest.CaptureFixture[str]) -> None:
    day.simulator.add_fault(day.race_ids[31], "status", code=401)
    result = day.poll(day.race_ids[30:33])
    captured = capfd.readouterr()
    stored = " ".join(str(event) for event in day.instance.all_logs(result.run_id))
    for secret in (*PASSWORD_PARTS, *IDENTITY.values()):
        assert secret not in captured.out + captured.err + stored


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://raceday:{quote(PASSWORD, safe='')}@127.0.0.1:1/races", "port 1 cannot be reached"),
        (f"postgresql://raceday:{quote(PASSWORD, safe='')}@127.0.0.1/races?nosuch=1", "invalid connection option"),
        (f"postgresql:///races?host=127.0.0.1&port=1&password={quote(PASSWORD, safe='')}", "port 1 cannot be reached"),
        (f"postgresql://raceday:{PASSWORD}@127.0.0.1:1/races", "percent-encode the password"),
    ],
    ids=["refused", "unknown option", "in the query", "not encoded"],
)
def test_no_part_of_the_password_is_in_anything_that_a_failing_run_leaves(
    day: RaceDay,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    url: str,
    said: str,
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}) as instance:
        result = replace(day, instance=instance).poll(day.race_ids[:2])
    assert not result.success
    captured = capfd.readouterr()
    # Its events with their metadata, and what its steps printed.
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert said.encode() in left
    assert result.run_id.encode() in left
    for secret in PASSWORD_PARTS:
        assert secret not in captured.out + captured.err
        assert secret.encode() not in left


def test_each_partition_of_a_backfill_polls_its_own_race(day: RaceDay) -> None:
    """As the UI launches them: one run a partition."""
    day.instance.add_dynamic_partitions("races", day.race_ids)
    first, second = day.race_ids[34:36]
    for race_id, name in ((first, str), (second, str), (first, day.name_race)):
        tags = {"dagster/partition": name(race_id), "dagster/backfill": "by-hand"}
        result = day.run("process_race", tags=tags)
        assert result.success
        assert set(day.read_polls(result.run_id)) == {race_id}
        check_stage_timings(day, result)


def test_a_partition_of_no_stored_race_is_one_line(day: RaceDay) -> None:
    key = "2026-11-26 Te Rimu Downs R05 95bd6ff7"
    day.instance.add_dynamic_partitions("races", [key])
    _step, said = read_failure(day.run("process_race", tags={"dagster/partition": key}))
    assert f"the partition {key!r} names no stored race" in said


def test_a_poll_without_its_partition_is_refused(day: RaceDay) -> None:
    _step, said = read_failure(day.run("process_race"))
    assert "process_races with race_ids" in said


def test_a_run_with_one_failed_race_is_red_if_asked_to_be(day: RaceDay) -> None:
    lost, kept = day.race_ids[36:38]
    day.simulator.add_fault(lost, "garbage")
    result = day.poll([lost, kept], fail_run_when="any")
    assert not result.success
    batch = day.read_batch(result.run_id)
    assert (batch["failures"], batch["successes"]) == (1, 1)


def test_a_race_store_that_is_made_again_after_the_run_opens_nothing(day: RaceDay) -> None:
    """Dagster's command line makes the resources of a run a second time when the run is over."""
    with dg.build_resources({"race_store": RaceStoreResource()}) as first:
        first.race_store.ensure_partitions()
        assert first.race_store.engine.pool.checkedin() > 0
    with dg.build_resources({"race_store": RaceStoreResource()}) as again:
        assert again.race_store.engine.pool.checkedin() == 0
