"""``make saturday``: the largest day on one machine. 700 races, first on a database that is a day old, then on one with
a month of history; what every part takes, against its budget, as one Markdown table.

Exits with 1 when something is over its budget.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.saturday.cadence import count_polls
from benchmarks.saturday.costs import Figure, batches, describe_moment, load_day, tick, views
from benchmarks.saturday.housekeeping import copy_runs, maintenance, sizes
from benchmarks.saturday.month import Followed, make_history, make_races
from benchmarks.saturday.scene import DATABASE, Scene, open_scene
from benchmarks.saturday.speed import memory
from benchmarks.saturday.ui import pages, register_all
from raceday_dagster.bench.command import logging_to

DAYS = 30
THIN = (timedelta(minutes=5), timedelta(minutes=2.5))
"""When races were polled on the other days of the month, before and after the start: 30 times each instead of 700."""
FULL = timedelta(hours=4)
"""How long before its start each race was polled on the day under way, which the figures are about, and on the day that
is put away."""
ARCHIVED = 32
"""Days ago."""
MINUTES = 8.0
Measurement = Callable[[Scene], Iterator[Figure]]
ON_EACH: tuple[Measurement, ...] = (tick, batches, views, pages)


def main() -> None:
    """Measures in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help=f"racing days of history (default {DAYS})")
    parser.add_argument("--keep", type=Path, help="a folder for the databases, which is left there")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of batches at speed (default {MINUTES:g})")
    arguments = parser.parse_args()
    with choose_home(arguments.keep) as home, logging_to(home / "saturday.log"):
        figures = measure(home, arguments.days, arguments.minutes)
    print_table(figures)
    sys.exit(any(figure.is_kept is False for column in figures for figure in column.values()))


@contextmanager
def choose_home(kept: Path | None) -> Iterator[Path]:
    """A folder that goes with the block, or the one to keep."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="rd-") as folder:
        Path(folder).chmod(0o755)  # the server has an account of its own
        yield Path(folder)


def measure(home: Path, days: int, minutes: float) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """The figures by name: of the database of a day, and of a month."""
    of_day: dict[str, Figure] = {}
    of_month: dict[str, Figure] = {}
    polls, figures = count_polls()
    note(of_day, figures)
    with open_scene(home) as scene:
        note(of_day, [load_day(scene)])
        for measurement in ON_EACH:
            note(of_day, measurement(scene))
        note(of_month, [make_month(scene, days), register_all(scene), copy_runs(scene)])
        note(of_month, [load_day(scene)])
        for measurement in ON_EACH:
            note(of_month, measurement(scene))
        note(of_month, sizes(scene, scene.simulation.racing_day - timedelta(days=ARCHIVED), polls))
        note(of_month, maintenance(scene))
        note(of_month, memory(scene, minutes))
    return of_day, of_month


def make_month(scene: Scene, days: int) -> Figure:
    """The days before the one under way, one that is to be put away, and what today would have had of polls by now."""
    began_s, polls = time.monotonic(), 0
    today = scene.simulation.racing_day
    followed = [Followed(today - timedelta(days=ARCHIVED), FULL)]
    followed += [Followed(today - timedelta(days=number), *THIN) for number in range(1, days)]
    with scene.admin.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {DATABASE}")  # whose tables they are to be
        for day in followed:
            make_races(connection, day.day, 700)
            polls += make_history(connection, day)
            say(f"{day.day}: {polls:,} polls after {time.monotonic() - began_s:.0f} s")
        polls += make_history(connection, Followed(today, FULL, until=datetime.now(UTC) - timedelta(minutes=1)))
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM (ANALYZE)")
    ((rows,),) = scene.ask("SELECT count(*) FROM money_flow_history")
    told = f"{days + 1} days, {polls:,} polls, {rows:,} rows of money flow, made in {time.monotonic() - began_s:.0f} s"
    return Figure("history", told)


def note(column: dict[str, Figure], figures: Iterable[Figure]) -> None:
    """Keeps figures, and says each as soon as it is there: the whole takes half an hour."""
    for figure in figures:
        column[figure.name] = figure
        say(f"{figure.name}: {figure.value}{' OVER ITS BUDGET' if figure.is_kept is False else ''}")


def say(line: str) -> None:
    """A line of progress."""
    print(f"{describe_moment()}  {line}", flush=True)


def print_table(columns: tuple[dict[str, Figure], dict[str, Figure]]) -> None:
    """The Markdown of README.md."""
    print("\n| figure | budget | a day | a month |\n|---|---|---|---|")
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        cells = [column.get(name) for column in columns]
        budget = next(cell.budget for cell in cells if cell)
        told = [f"**{cell.value}**" if cell and cell.is_kept is False else cell.value if cell else "" for cell in cells]
        print(f"| {name} | {budget} | {told[0]} | {told[1]} |")


if __name__ == "__main__":
    main()
