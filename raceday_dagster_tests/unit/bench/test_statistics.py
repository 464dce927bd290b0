from __future__ import annotations

import math

from raceday_dagster.bench.statistics import RaceRun, Spread, Targets, check_targets, find_percentile, summarise


def make_run(total_ms: int, *, status: str = "success") -> RaceRun:
    return RaceRun(
        iteration=1,
        race_id="a",
        status=status,  # type: ignore[arg-type]
        success=status == "success",
        total_ms=total_ms,
        fetch_ms=300,
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


def test_summary_counts_only_polls_that_succeeded() -> None:
    summary = summarise([make_run(400), make_run(9_000, status="failed"), make_run(1, status="skipped")], [700.0])

    totals = summary["total_ms"]
    assert totals is not None
    assert (totals.samples, totals.max) == (1, 400)
    assert summary["batch_ms"] == Spread.of([700.0])


def test_each_target_judges_its_own_stage_and_is_missed_from_its_value_on() -> None:
    summary = summarise([make_run(400)], [700.0])
    reached = {"race_ms": 400, "batch_ms": 700, "fetch_ms": 300, "transform_ms": 10, "write_ms": 20}
    stages = ("total_ms", "batch_ms", "fetch_ms", "transform_ms", "write_ms")

    for (target, value), stage in zip(reached.items(), stages, strict=True):
        missed = [check for check in check_targets(summary, Targets(**{target: value})) if not check.passed]
        assert [(check.name, check.observed, check.limit) for check in missed] == [(f"{stage}.p95", value, value)]
        assert all(check.passed for check in check_targets(summary, Targets(**{target: value + 1})))


def test_target_without_a_sample_is_missed() -> None:
    checks = check_targets(summarise([make_run(1, status="failed")], []), Targets())

    assert {(check.observed, check.passed) for check in checks} == {(None, False)}
