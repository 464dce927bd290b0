"""``raceday bench`` as a person types it, on the simulator, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raceday_dagster_tests.integration.commands import make_environment, raceday, read_only_line
from raceday_dagster_tests.waiting import wait_for

PATIENT = ("--race-target-ms", "60000", "--batch-target-ms", "60000", "--fetch-target-ms", "60000")
PATIENT = (*PATIENT, "--transform-target-ms", "60000", "--write-target-ms", "60000")


def read_report(folder: Path) -> dict[str, object]:
    (path,) = (folder / "benchmark-results").glob("*.json")
    report: dict[str, object] = json.loads(path.read_text("utf-8"))
    return report


def test_comparison_of_two_races_writes_figures_of_every_contender(tmp_path: Path) -> None:
    asked = ("--count", "2", "--iterations", "2", "--latency-ms", "20", "--compare", "--no-multiprocess", *PATIENT)
    ended = raceday(tmp_path, "bench", *asked)

    assert ended.returncode == 0, ended.stderr
    report = read_report(tmp_path)
    comparison = report["comparison"]
    assert isinstance(comparison, dict)
    assert set(comparison["ratio_to_plain_threads"]) == {"process_races", "plain_threads", "in_process"}
    assert comparison["ratio_to_plain_threads"]["plain_threads"] == 1
    assert comparison["contenders"]["process_races"]["events"]["min"] > 0
    assert comparison["contenders"]["process_races"]["peak_memory_mb"] > 0
    assert comparison["contenders"]["plain_threads"]["events"]["max"] == 0
    (table,) = (tmp_path / "benchmark-results").glob("2-races-*.csv")
    lines = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert [(line["iteration"], line["status"]) for line in lines] == [(n, "success") for n in ("1", "1", "2", "2")]
    assert all(int(line["fetch_ms"]) >= 20 for line in lines)
    assert "| `plain_threads` | 2 |" in ended.stdout


def test_missed_target_and_ids_that_nobody_knows_end_with_1(tmp_path: Path) -> None:
    missed = raceday(
        tmp_path, "bench", "--count", "1", "--iterations", "1", "--latency-ms", "20", "--fetch-target-ms", "1"
    )
    assert missed.returncode == 1, missed.stderr
    assert "**missed**" in missed.stdout

    unknown = raceday(tmp_path, "bench", "--race", "nobody", "--iterations", "1", "--output", "others")
    assert unknown.returncode == 1
    assert read_only_line(unknown) == "Error: the API does not know 1 of 1 races: nobody"
    assert list((tmp_path / "others").iterdir()) == []


def test_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "raceday_dagster.cli", "bench", "--count", "1", "--iterations", "1000")
    log = tmp_path / ".raceday" / "bench" / "bench.log"
    with subprocess.Popen(
        command, cwd=tmp_path, env=make_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as bench:
        # The warm-up, and at least one batch that counts.
        wait_for(lambda: log.exists() and log.read_text("utf-8").count('{"event": "batch_complete"') >= 3, 60)
        bench.send_signal(signal.SIGINT)
        said, complaints = bench.communicate(timeout=60)
    assert bench.returncode == 130, complaints
    assert "1-races" in said
    report = read_report(tmp_path)
    assert report["metadata"]["interrupted"] is True  # type: ignore[index]
    assert 1 <= len(report["batches"]) < 1000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ((), "--count"),
        (("--count", "1", "--race", "a"), "--count"),
        (("--count", "0"), "0 is not in the range"),
        (("--count", "1", "--race-target-ms", "0"), "0.0 is not in the range"),
        (("--count", "1", "--formats", "xml"), "--formats takes json,csv"),
        (("--race-file", "empty.json"), "no race id in empty.json"),
        (("--race-file", "wrong.json"), "must be a JSON array"),
        (("--count", "1", "--output", "empty.json/below"), "cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(tmp_path: Path, typed: tuple[str, ...], says: str) -> None:
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    (tmp_path / "wrong.json").write_text('{"races": []}', encoding="utf-8")
    ended = raceday(tmp_path, "bench", *typed)

    assert ended.returncode != 0
    assert says in ended.stderr.splitlines()[-1]
    assert not (tmp_path / ".raceday").exists()
