"""What a batch says of the market, and that nobody who is told, or fails to listen, costs it anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from socket import socket

import dagster as dg
import pytest

from raceday_dagster.defs.webhook import TRIES
from raceday_dagster_tests.integration.defs.day_runs import read_metadata
from raceday_dagster_tests.integration.fetch.raw_server import frame, say, serving
from raceday_dagster_tests.integration.postgres_fixture import order
from raceday_dagster_tests.integration.race_day import RaceDay, list_races, open_race_day, read_log

SUMMARY = "summarise_batch"


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url) as opened:
        opened.simulator.set_clock(speed=0)
        yield opened


def move_market(day: RaceDay, database_url: str, number: int) -> dg.JobExecutionResult:
    """Polls a race nine minutes before its start, and again when late money has come: half a minute later, for all that
    the ledger knows."""
    start, race_id = list_races(day.simulator, "Open")[number]
    for seconds in (540, 20):
        day.simulator.set_clock(datetime.fromisoformat(start) - timedelta(seconds=seconds))
        result = day.poll([race_id])
        assert day.read_batch(result.run_id)["successes"] == 1
        if seconds == 540:
            for table, column in (("money_flow_history", "polling_timestamp"), ("race_polls", "polled_at")):
                order(
                    database_url,
                    f"UPDATE {table} SET {column} = {column} - interval '30 s' WHERE race_id = '{race_id}'",
                )
    return result


def test_signals_are_stored_logged_shown_and_sent_in_one_post(
    day: RaceDay, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(say(frame(b""))) as server:
        monkeypatch.setenv("SIGNAL_WEBHOOK_URL", f"http://127.0.0.1:{server.port}/hook?key=hunter2")
        result = move_market(day, database_url, 0)
    assert result.success
    stored = day.ask("SELECT * FROM market_signals")
    assert stored
    captured = capfd.readouterr().err
    logged = [line for line in read_log(captured) if line["event"] == "market_signal"]
    assert {(line["entrant_id"], line["kind"]) for line in logged} == {
        (row["entrant_id"], row["kind"]) for row in stored
    }
    assert {line["run_id"] for line in logged} == {result.run_id}
    metadata = read_metadata(result, SUMMARY)
    assert metadata["signals"] == len(stored)
    assert all(f"{line['runner_number']} {line['runner']}" in metadata["new_signals"] for line in logged)
    (body,) = server.read_posted()
    assert body["run_id"] == result.run_id
    assert [signal["change"] for signal in body["signals"]] == [line["change"] for line in logged if line["alert"]]
    assert "hunter2" not in captured


def test_a_webhook_that_hangs_costs_nothing_but_a_warning(
    day: RaceDay, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stored_while_it_hung: list[int] = []

    def hang(connection: socket) -> None:
        stored_while_it_hung.append(day.ask("SELECT count(*) AS n FROM batches")[0]["n"])
        server.drip(connection, b"", b"")

    with serving(hang) as server:
        monkeypatch.setenv("SIGNAL_WEBHOOK_URL", f"http://127.0.0.1:{server.port}/hook?key=hunter2")
        monkeypatch.setattr("raceday_dagster.defs.webhook.TIMEOUT_S", 0.5)
        result = move_market(day, database_url, 1)
    assert result.success
    batches = day.ask("SELECT count(*) AS n FROM batches")[0]["n"]
    assert stored_while_it_hung == [batches] * TRIES
    assert read_metadata(result, SUMMARY)["signals"] > 0
    captured = capfd.readouterr().err
    (warning,) = [line for line in read_log(captured) if line["event"] == "signal_webhook_failed"]
    assert (warning["level"], warning["reason"]) == ("warning", "no answer within 0.5 s")
    assert "hunter2" not in captured


def test_signals_that_cannot_be_computed_cost_a_warning_and_never_the_batch(
    day: RaceDay, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    order(database_url, "ALTER TABLE market_signals RENAME TO elsewhere")
    try:
        result = move_market(day, database_url, 2)
    finally:
        order(database_url, "ALTER TABLE elsewhere RENAME TO market_signals")
    assert result.success
    assert read_metadata(result, SUMMARY)["successes"] == 1
    (warning,) = [line for line in read_log(capfd.readouterr().err) if line["event"] == "signals_failed"]
    assert "market_signals" in warning["error"]
