"""What a benchmark leaves: a report, its JSON and CSV files, and its tables for people, which are Markdown."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from raceday_dagster.bench.layers import LayerCost
from raceday_dagster.bench.statistics import (
    BATCH,
    RaceRun,
    Spread,
    Targets,
    Threshold,
    check_targets,
    summarise,
)
from raceday_dagster.errors import BenchError
from raceday_dagster.racing.records import Record

FORMATS = ("json", "csv")
_TITLES = {
    "total_ms": "race",
    "fetch_ms": "fetch",
    "transform_ms": "transform",
    "write_ms": "write",
    BATCH: "batch, by the wall",
}


class BatchRun(Record):
    """One batch of one contender, or with one layer left out: what it took, and the events it left in Dagster."""

    contender: str
    iteration: int
    wall_ms: float
    cpu_ms: float
    events: int
    failed_polls: int = 0


class Metadata(Record):
    """What was measured, where and when."""

    scenario: str
    started_at: datetime
    races: int
    iterations: int
    """Asked for; ``batches`` says how many there were."""
    concurrency: int
    latency_ms: int | None
    """Of the simulated API; ``None`` for another one."""
    interrupted: bool
    cores: int | None
    python: str
    platform: str
    version: str


class ContenderFigures(Record):
    """What the batches of one contender came to."""

    wall_ms: Spread
    cpu_ms: Spread
    events: Spread
    failed_polls: int = 0
    peak_memory_mb: float | None = None
    """Of a whole ``dagster job execute`` with its workers, where it was measured."""


class Comparison(Record):
    """The contenders of one interleaved run; the ratios are those of the median batches by the wall."""

    contenders: dict[str, ContenderFigures]
    ratio_to_plain_threads: dict[str, float]


class Report(Record):
    """Everything a benchmark came to. ``summary``, ``thresholds`` and ``runs`` are those of our own job."""

    metadata: Metadata
    summary: dict[str, Spread | None]
    thresholds: tuple[Threshold, ...]
    runs: tuple[RaceRun, ...]
    batches: tuple[BatchRun, ...]
    comparison: Comparison | None = None
    layers: dict[str, LayerCost] | None = None
    """What our own layers took in batches of their own, which count for nothing else."""

    @property
    def failures(self) -> list[RaceRun]:
        """Polls that failed."""
        return [run for run in self.runs if run.failed]

    @property
    def passed(self) -> bool:
        """Every target was kept and no poll failed; never where nothing was measured."""
        return all(threshold.passed for threshold in self.thresholds) and not self.failures


def build_report(
    metadata: Metadata, runs: Sequence[RaceRun], batches: Sequence[BatchRun], targets: Targets, *, ours: str
) -> Report:
    """The report of measured polls and batches; its thresholds judge the contender ``ours``."""
    summary = summarise(runs, [batch.wall_ms for batch in batches if batch.contender == ours])
    return Report(
        metadata=metadata,
        summary=summary,
        thresholds=check_targets(summary, targets),
        runs=tuple(runs),
        batches=tuple(batches),
    )


def compare(batches: Sequence[BatchRun], *, floor: str, peak_memory_mb: Mapping[str, float]) -> Comparison:
    """The contenders beside each other."""
    figures: dict[str, ContenderFigures] = {}
    for name in dict.fromkeys(batch.contender for batch in batches):
        mine = [batch for batch in batches if batch.contender == name]
        figures[name] = ContenderFigures(
            wall_ms=Spread.of([batch.wall_ms for batch in mine]),
            cpu_ms=Spread.of([batch.cpu_ms for batch in mine]),
            events=Spread.of([batch.events for batch in mine]),
            failed_polls=sum(batch.failed_polls for batch in mine),
            peak_memory_mb=peak_memory_mb.get(name),
        )
    ratios = {}
    if floor in figures:
        floor_ms = figures[floor].wall_ms.p50
        ratios = {name: round(each.wall_ms.p50 / floor_ms, 3) for name, each in figures.items()}
    return Comparison(contenders=figures, ratio_to_plain_threads=ratios)


def require_folder(folder: Path) -> None:
    """Makes the folder of the reports, before anything is measured.

    Raises:
        BenchError: There is no writing there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BenchError(f"the output folder {folder} cannot be written: {error.strerror}; choose another") from error


def write_report(report: Report, folder: Path, formats: Collection[str]) -> list[Path]:
    """Writes the files, named by scenario and time, and returns where they are.

    Raises:
        BenchError: One could not be written.
    """
    name = f"{report.metadata.scenario}-{report.metadata.started_at:%Y-%m-%dT%H-%M-%SZ}"
    written = []
    for kind in (kind for kind in FORMATS if kind in formats):
        path = folder / f"{name}.{kind}"
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                if kind == "json":
                    file.write(report.model_dump_json(indent=2) + "\n")
                else:
                    lines = csv.DictWriter(file, fieldnames=list(RaceRun.model_fields))
                    lines.writeheader()
                    lines.writerows(run.model_dump() for run in report.runs)
        except OSError as error:
            raise BenchError(f"{path} cannot be written: {error.strerror}") from error
        written.append(path)
    return written


def describe_report(report: Report) -> Iterator[str]:
    """The lines for people."""
    about = report.metadata
    latency = "" if about.latency_ms is None else f", {about.latency_ms} ms of latency"
    done = len({batch.iteration for batch in report.batches})
    yield f"{about.scenario}, {about.concurrency} at once{latency}, {done} iterations"
    yield f"{about.started_at:%Y-%m-%d}, {about.cores} cores, Python {about.python}, {about.platform}"
    yield ""
    yield "| ms | samples | min | mean | p50 | p95 | p99 | max | target of p95 |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for threshold in report.thresholds:
        stage = threshold.name.removesuffix(".p95")
        spread = report.summary[stage]
        figures = (spread.min, spread.mean, spread.p50, spread.p95, spread.p99, spread.max) if spread else (None,) * 6
        cells = " | ".join("" if figure is None else f"{figure:.0f}" for figure in figures)
        verdict = "kept" if threshold.passed else "**missed**"
        samples = spread.samples if spread else 0
        yield f"| {_TITLES[stage]} | {samples} | {cells} | {threshold.limit:g}: {verdict} |"
    if kinds := Counter(f"{run.error_type}: {run.error_message}" for run in report.failures):
        yield ""
        yield f"{len(report.failures)} of {len(report.runs)} polls failed, most often {kinds.most_common(1)[0][0]}"
    if report.comparison:
        yield ""
        yield from _describe_comparison(report.comparison)
    if report.layers:
        yield ""
        yield "| layer, a batch | calls | CPU, ms: median (range) | at work in all threads, ms: median |"
        yield "|---|--:|--:|--:|"
        for name, cost in report.layers.items():
            cpu = f"{cost.cpu_ms.p50:.1f} ({cost.cpu_ms.min:.1f} to {cost.cpu_ms.max:.1f})"
            yield f"| {name} | {cost.calls.p50:.0f} | {cpu} | {cost.wall_ms.p50:.1f} |"


def _describe_comparison(comparison: Comparison) -> Iterator[str]:
    yield "| contender | runs | wall, s: median (range) | against plain threads | CPU-s | events | peak memory, MB |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, figures in comparison.contenders.items():
        wall = figures.wall_ms
        ratio, memory = comparison.ratio_to_plain_threads.get(name), figures.peak_memory_mb
        yield (
            f"| `{name}` | {wall.samples} | {wall.p50 / 1000:.2f} ({wall.min / 1000:.2f} to {wall.max / 1000:.2f}) "
            f"| {'' if ratio is None else f'{ratio:.2f} x'} | {figures.cpu_ms.p50 / 1000:.2f} "
            f"| {figures.events.p50:.0f} | {'' if memory is None else f'{memory:.0f}'} |"
        )
    for name, figures in comparison.contenders.items():
        if figures.failed_polls:
            yield f"{figures.failed_polls} polls of `{name}` failed: its figures are of other work"
