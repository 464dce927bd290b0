from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from raceday_dagster.bench.statistics import (
    RaceRun,
    Spread,
    Targets,
    check_targets,
    compare_medians,
    find_percentile,
    summarise,
)


def make_run(total_ms: int, *, status: str = "success", fetch_ms: int = 300) -> RaceRun:
    return RaceRun(
        iteration=1,
        race_id="a",
        status=status,  # type: ignore[arg-type]
        success=status == "success",
        total_ms=total_ms,
        fetch_ms=fetch_ms,
        transform_ms=10,
        write_ms=20,
    )


def test_percentiles_are_nearest_ranks() -> None:
    assert [find_percentile([4, 1, 3, 2], share) for share in (0.5, 0.95, 1)] == [2, 4, 4]
    hundred = list(range(1, 101))
    assert [find_percentile(hundred, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert math.isnan(find_percentile([], 0.5))


def test_spread_of_a_few_times() -> None:
    assert Spread.of([60, 10, 20.006]) == Spread(samples=3, min=10, mean=30.0, p50=20.01, p95=60, p99=60, max=60)
    assert Spread.of([]) is None


def test_summary_counts_only_polls_that_succeeded() -> None:
    summary = summarise([make_run(400), make_run(9_000, status="failed"), make_run(1, status="skipped")], [700.0])

    totals = summary["total_ms"]
    assert totals is not None
    assert (totals.samples, totals.max) == (1, 400)
    assert summary["batch_ms"] == Spread.of([700.0])


@pytest.mark.parametrize(("total_ms", "passed"), [(1_999, True), (2_000, False)])
def test_target_is_missed_from_its_value_on(total_ms: int, passed: bool) -> None:
    thresholds = {check.name: check for check in check_targets(summarise([make_run(total_ms)], [700.0]), Targets())}

    assert thresholds["total_ms.p95"].observed == total_ms
    assert thresholds["total_ms.p95"].limit == 2_000
    assert {name: check.passed for name, check in thresholds.items()} == {
        "total_ms.p95": passed,
        "batch_ms.p95": True,
        "fetch_ms.p95": True,
        "transform_ms.p95": True,
        "write_ms.p95": True,
    }


def test_each_target_judges_its_own_stage() -> None:
    summary = summarise([make_run(400, fetch_ms=300)], [700.0])
    strict = {"race_ms": 400, "batch_ms": 700, "fetch_ms": 300, "transform_ms": 10, "write_ms": 20}
    stages = ("total_ms", "batch_ms", "fetch_ms", "transform_ms", "write_ms")

    for target, stage in zip(strict, stages, strict=True):
        checks = check_targets(summary, Targets(**{target: strict[target]}))
        assert [check.name for check in checks if not check.passed] == [f"{stage}.p95"]


def test_target_without_a_sample_is_missed() -> None:
    checks = check_targets(summarise([make_run(1, status="failed")], []), Targets())

    assert {(check.observed, check.passed) for check in checks} == {(None, False)}


def test_target_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError):
        Targets(race_ms=0)


def test_ratios_are_those_of_the_medians() -> None:
    batches = {"ours": [600.0, 550.0, 5_000.0], "floor": [500.0, 400.0, 450.0], "none": []}

    assert compare_medians(batches, "floor") == {"ours": 1.333, "floor": 1.0}
    assert compare_medians({"ours": [600.0], "floor": []}, "floor") == {}
