from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raceday_dagster.bench.command import read_race_file
from raceday_dagster.bench.report import (
    BatchRun,
    Metadata,
    Report,
    build_report,
    compare,
    describe_report,
    write_report,
)
from raceday_dagster.bench.statistics import RaceRun, Targets
from raceday_dagster.errors import BenchError
from raceday_dagster.racing.outcomes import UNKNOWN_RACE

METADATA = Metadata(
    scenario="2-races",
    started_at=datetime(2026, 11, 26, 2, 3, 4, tzinfo=UTC),
    races=2,
    iterations=1,
    concurrency=5,
    latency_ms=300,
    interrupted=False,
    cores=2,
    python="3.11.7",
    platform="linux",
    version="0.1.0",
)
COLUMNS = "iteration,race_id,status,success,total_ms,fetch_ms,transform_ms,write_ms,error_type,error_message"
GOOD = RaceRun(
    iteration=1, race_id="a", status="success", success=True, total_ms=340, fetch_ms=310, transform_ms=10, write_ms=20
)
BAD = GOOD.model_copy(
    update={"status": "failed", "success": False, "error_type": "FetchError", "error_message": 'said "no", twice'}
)


def make_batch(contender: str = "process_races", wall_ms: float = 600.0, iteration: int = 1) -> BatchRun:
    return BatchRun(contender=contender, iteration=iteration, wall_ms=wall_ms, cpu_ms=240.0, events=62)


def make_report(*runs: RaceRun, targets: Targets | None = None) -> Report:
    batches = (make_batch(), make_batch("plain_threads", 400.0))
    return build_report(METADATA, runs, batches, targets or Targets(), ours="process_races")


def test_report_passes_when_all_targets_are_kept_and_no_poll_failed() -> None:
    assert make_report(GOOD).passed
    assert not make_report(GOOD, targets=Targets(batch_ms=600)).passed
    assert not make_report(GOOD, BAD).passed
    assert not make_report().passed


def test_poll_of_an_unknown_race_is_a_failure_and_one_of_an_older_answer_is_not() -> None:
    skipped = GOOD.model_copy(update={"status": "skipped", "success": False})
    unknown = skipped.model_copy(update={"error_type": UNKNOWN_RACE.type})

    assert make_report(GOOD, skipped).passed
    assert not make_report(GOOD, unknown).passed


def test_batches_of_other_contenders_are_not_judged() -> None:
    batch = make_report(GOOD).summary["batch_ms"]

    assert batch is not None
    assert (batch.samples, batch.max) == (1, 600)


def test_files_are_named_by_scenario_and_time_and_hold_everything(tmp_path: Path) -> None:
    report = make_report(GOOD, BAD)

    written = write_report(report, tmp_path, ("csv", "json"))

    assert [path.name for path in written] == ["2-races-2026-11-26T02-03-04Z.json", "2-races-2026-11-26T02-03-04Z.csv"]
    whole = json.loads(written[0].read_text("utf-8"))
    assert Report.model_validate(whole) == report
    assert set(whole) >= {"metadata", "summary", "thresholds", "runs"}
    lines = written[1].read_text("utf-8").splitlines()
    assert lines[0] == COLUMNS
    assert [path.suffix for path in write_report(report, tmp_path, ("csv",))] == [".csv"]
    assert [line["error_message"] for line in csv.DictReader(lines)] == ["", 'said "no", twice']


def test_comparison_says_how_many_times_longer_each_contender_takes() -> None:
    batches = [
        make_batch(name, wall_ms, iteration)
        for iteration, ours_ms, floor_ms in ((1, 600.0, 400.0), (2, 500.0, 390.0), (3, 560.0, 410.0))
        for name, wall_ms in (("process_races", ours_ms), ("plain_threads", floor_ms))
    ]

    comparison = compare(batches, floor="plain_threads", peak_memory_mb={"process_races": 144.2})

    assert comparison.ratio_to_plain_threads == {"process_races": 1.4, "plain_threads": 1.0}
    without_floor = compare([make_batch()], floor="plain_threads", peak_memory_mb={})
    assert without_floor.ratio_to_plain_threads == {}
    figures = comparison.contenders["process_races"]
    assert (figures.wall_ms.min, figures.wall_ms.p50, figures.wall_ms.max) == (500, 560, 600)
    report = make_report(GOOD).model_copy(update={"comparison": comparison})
    assert "| `process_races` | 3 | 0.56 (0.50 to 0.60) | 1.40 x | 0.24 | 62 | 144 |" in list(describe_report(report))


def test_comparison_names_the_contender_whose_polls_failed() -> None:
    batches = [make_batch(), make_batch("plain_threads").model_copy(update={"failed_polls": 2})]
    comparison = compare(batches, floor="plain_threads", peak_memory_mb={})

    lines = list(describe_report(make_report(GOOD).model_copy(update={"comparison": comparison})))

    assert lines[-1] == "2 polls of `plain_threads` failed: its figures are of other work"


def test_lines_for_people_name_the_missed_target_and_the_failure() -> None:
    lines = list(describe_report(make_report(GOOD, BAD, targets=Targets(write_ms=20))))

    assert "| write | 1 | 20 | 20 | 20 | 20 | 20 | 20 | 20: **missed** |" in lines
    assert "| fetch | 1 | 310 | 310 | 310 | 310 | 310 | 310 | 500: kept |" in lines
    assert '1 of 2 polls failed, most often FetchError: said "no", twice' in lines


@pytest.mark.parametrize("content", ["{}", '["a", ""]', '["a", 1]', "a", "\xff"])
def test_race_file_is_an_array_of_ids_or_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "races.json"
    path.write_bytes(content.encode("latin-1"))

    with pytest.raises(BenchError, match="race file"):
        read_race_file(path)
    path.write_text('["a", "b"]', encoding="utf-8")
    assert read_race_file(path) == ("a", "b")
