"""The command ``raceday bench`` as it is typed: its options, and what they must not be.

Imports nothing but ``click`` until it is called: ``raceday --help`` lists it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

_TARGET = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--count", multiple=True, type=click.IntRange(1, 1000), help="So many races of a simulated day; repeat.")
@click.option("--race", multiple=True, metavar="ID", help="A race of NZTAB_API_URL, or of the simulated day of now.")
@click.option(
    "--race-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A JSON array of such ids."
)
@click.option("--scenario", default="", help="Begins the names of the files.")
@click.option("--latency-ms", default=300, show_default=True, type=click.IntRange(min=0), help="Of the simulated API.")
@click.option("--iterations", default=3, show_default=True, type=click.IntRange(1), help="Batches of each scenario.")
@click.option("--concurrency", default=5, show_default=True, type=click.IntRange(1, 100), help="Races at once.")
@click.option(
    "--output", default="benchmark-results", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--formats", default="json,csv", show_default=True, help="Which files to write.")
@click.option("--race-target-ms", default=2000.0, show_default=True, type=_TARGET, help="For a race.")
@click.option("--batch-target-ms", default=15000.0, show_default=True, type=_TARGET, help="For a batch, by the wall.")
@click.option("--fetch-target-ms", default=500.0, show_default=True, type=_TARGET, help="For a fetch.")
@click.option("--transform-target-ms", default=1000.0, show_default=True, type=_TARGET, help="For a transform.")
@click.option("--write-target-ms", default=300.0, show_default=True, type=_TARGET, help="For a write.")
@click.option("--compare", is_flag=True, help="With plain threads and Dagster's own executors, in turn.")
@click.option("--no-multiprocess", is_flag=True, help="With --compare: leave out the slow one.")
@click.option("--layers", is_flag=True, help="Then say what each of our own layers costs.")
def bench(count: tuple[int, ...], race: tuple[str, ...], race_file: Path | None, formats: str, **options: Any) -> None:
    """Measure batches of races on this machine. Exits with 1 when a target is missed or a poll fails.

    A target is for the 95th percentile. With --count everything is simulated; --race writes into DATABASE_URL.
    """
    from raceday_dagster.bench.command import Plan, read_race_file, run_bench
    from raceday_dagster.bench.report import FORMATS
    from raceday_dagster.bench.statistics import Targets

    chosen = tuple(kind.strip() for kind in formats.split(",") if kind.strip())
    if not chosen or not set(chosen) <= set(FORMATS):
        raise click.UsageError(f"--formats takes {','.join(FORMATS)} or one of them, not {formats!r}")
    if bool(count) == bool(race or race_file):
        raise click.UsageError("say how many races with --count, or which ones with --race or --race-file")
    race_ids = (*race, *(read_race_file(race_file) if race_file else ()))
    if not count and not race_ids:
        raise click.UsageError(f"there is no race id in {race_file}")
    if not all(race_id.strip() for race_id in race_ids):
        raise click.UsageError("a race id is empty")
    if not all(letter.isalnum() or letter in "-_." for letter in options["scenario"]):
        raise click.UsageError("--scenario takes letters, digits, -, _ and .: it is part of file names")
    targets = Targets(
        **{f"{of}_ms": options.pop(f"{of}_target_ms") for of in ("race", "batch", "fetch", "transform", "write")}
    )
    with_multiprocess = not options.pop("no_multiprocess")
    plan = Plan(
        counts=count, race_ids=race_ids, formats=chosen, targets=targets, with_multiprocess=with_multiprocess, **options
    )
    sys.exit(run_bench(plan, os.environ))
