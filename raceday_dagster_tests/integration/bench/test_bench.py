"""``raceday bench`` as a person types it, on the simulator."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.simulator.running import running_simulator
from raceday_dagster_tests.integration.commands import make_environment, raceday, read_only_line
from raceday_dagster_tests.integration.race_day import IDENTITY, RACING_DAY, find_open_races
from raceday_dagster_tests.waiting import wait_for

# All targets but one are out of the way: tests do not judge the machine.
TARGETS = ("race", "batch", "transform", "write")
ONE_TARGET = ("--fetch-target-ms", "1", *(part for of in TARGETS for part in (f"--{of}-target-ms", "60000")))


def read_report(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "benchmark-results").glob("*.json")
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return report


def test_comparison_of_two_races_writes_figures_of_every_contender(home: Path, shared_home: Path) -> None:
    asked = ("--count", "2", "--iterations", "2", "--latency-ms", "20", "--compare", "--no-multiprocess", "--layers")
    ended = raceday(home, "bench", *asked, *ONE_TARGET, RACEDAY_HOME=str(shared_home))

    assert ended.returncode == 1, ended.stderr
    report = read_report(home)
    assert [check["name"] for check in report["thresholds"] if not check["passed"]] == ["fetch_ms.p95"]
    assert ended.stdout.count("**missed**") == 1
    comparison = report["comparison"]
    assert set(comparison["ratio_to_plain_threads"]) == {"process_races", "plain_threads", "in_process"}
    assert comparison["ratio_to_plain_threads"]["plain_threads"] == 1
    assert comparison["contenders"]["process_races"]["events"]["min"] > 0
    assert comparison["contenders"]["process_races"]["peak_memory_mb"] > 0
    assert comparison["contenders"]["plain_threads"]["events"]["max"] == 0
    calls = {layer: cost["calls"]["min"] for layer, cost in report["layers"].items()}
    assert calls.pop("event log") > 25
    assert calls == {"validation": 2, "transform workers": 5, "ledger": 3, "metadata": 8}
    (table,) = (home / "benchmark-results").glob("2-races-*.csv")
    lines = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert [(line["iteration"], line["status"]) for line in lines] == [(n, "success") for n in ("1", "1", "2", "2")]
    assert all(int(line["fetch_ms"]) >= 20 for line in lines)
    assert "| `plain_threads` | 2 |" in ended.stdout


def test_races_by_id_are_those_of_the_api_and_the_database_of_the_environment(
    home: Path, embedded_postgres: EmbeddedPostgres, database_url: str
) -> None:
    with running_simulator(seed=5, racing_day=RACING_DAY) as simulator:
        places = {"DATABASE_URL": database_url, "DAGSTER_PG_URL": embedded_postgres.create_dagster_database()}
        exported = {**IDENTITY, **places, "NZTAB_API_URL": simulator.api_url}
        race_id = find_open_races(simulator)[0]
        measured = raceday(home, "bench", "--race", race_id, "--iterations", "1", **exported)
        unknown = raceday(home, "bench", "--race", race_id, "--race", "nobody", "--output", "others", **exported)

    assert f"1,{race_id},success" in next((home / "benchmark-results").glob("*.csv")).read_text("utf-8")
    assert read_report(home)["metadata"]["latency_ms"] is None, measured.stderr
    assert unknown.returncode == 1
    assert read_only_line(unknown) == "Error: the API does not know 1 of 2 races: nobody"
    assert [path.name for path in (home / "others").iterdir()] == ["bench.log"]


def read_terminal(terminal: int, shown: list[bytes]) -> None:
    """What a terminal is given until its last writer has closed it."""
    with suppress(OSError):
        while part := os.read(terminal, 4096):
            shown.append(part)


def test_interrupt_keeps_what_was_measured_and_the_terminal_shows_no_log(home: Path, shared_home: Path) -> None:
    command = (sys.executable, "-m", "raceday_dagster.cli", "bench", "--count", "1", "--iterations", "1000")
    log = home / "benchmark-results" / "bench.log"
    terminal, stderr = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=read_terminal, args=(terminal, shown))
    environment = make_environment(TERM="xterm", RACEDAY_HOME=str(shared_home))
    with subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as bench:
        os.close(stderr)
        reader.start()
        # The warm-up, and at least one batch that counts.
        wait_for(lambda: log.exists() and log.read_text("utf-8").count('{"event": "batch_complete"') >= 3, 60)
        bench.send_signal(signal.SIGINT)
        said, _ = bench.communicate(timeout=60)
    reader.join()
    os.close(terminal)
    bar = b"".join(shown).decode()
    assert bench.returncode == 130, bar
    assert "1-race " in bar
    assert '"event"' not in bar
    assert "1-race, 5 at once" in said
    report = read_report(home)
    assert report["metadata"]["interrupted"] is True
    assert 1 <= len(report["batches"]) < 1000
