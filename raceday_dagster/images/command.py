"""What ``raceday images`` does: a batch with a progress bar, a table at the end, and a CSV as stock sites take it."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from raceday_dagster.errors import ImagesError
from raceday_dagster.images.batch import describe_images
from raceday_dagster.images.records import ImageProgress, ImageResult
from raceday_dagster.images.sources import ImageSource, find_sources

if TYPE_CHECKING:
    from raceday_dagster.images.stages import Descriptions

CSV_COLUMNS = ("Filename", "Title", "Keywords", "Category", "Releases")
INTERRUPTED = 130


def run_images(
    places: Iterable[str | Path | ImageSource],
    *,
    csv_path: Path | None,
    max_concurrent: int = 5,
    timeout_s: float = 30,
    retries: int = 1,
    descriptions: Descriptions | None = None,
) -> int:
    """Describes the images, shows how it goes on standard error and what came out on standard output, and returns the
    exit code.

    0: all were described; 1: one failed; 130: Ctrl-C; 143: a SIGTERM. What was described until then is shown and
    written in every case.

    Raises:
        ImagesError: The batch cannot begin, or the CSV cannot be written.
        SettingsError: A variable is wrong.
    """
    sources = find_sources(places)
    ended: tuple[ImageResult, ...] = ()
    code = INTERRUPTED
    bar = _build_bar()
    task = bar.add_task("", total=len(sources), failed=0, running=min(len(sources), max_concurrent), left="")

    def follow(progress: ImageProgress) -> None:
        nonlocal ended
        ended = progress.results
        _show(progress, bar, task)

    with _writing(csv_path) as file:
        try:
            with bar:
                batch = describe_images(
                    sources,
                    max_concurrent=max_concurrent,
                    timeout_s=timeout_s,
                    retries=retries,
                    on_progress=follow,
                    descriptions=descriptions,
                )
            ended, code = batch.items, int(batch.failures > 0)
        except KeyboardInterrupt:
            pass  # what has ended so far is shown and written all the same
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else INTERRUPTED
        finally:
            if file is not None:
                write_csv(ended, file)
            if ended:
                show_table(ended, len(sources), Console(highlight=False))
    return code


def write_csv(results: Sequence[ImageResult], file: TextIO) -> None:
    """A line for each described image; the failed ones are left out."""
    lines = csv.writer(file)
    lines.writerow(CSV_COLUMNS)
    for result in results:
        if result.description is not None and not result.error:
            said = result.description
            lines.writerow((result.name, said.title, ", ".join(said.keywords), said.category, ""))


def show_table(results: Sequence[ImageResult], total: int, out: Console) -> None:
    """A line for each image that has ended, the failed ones last, and one line about all."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading, justify in (("image", "left"), ("title, or why not", "left"), ("keywords", "right"), ("kB", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("s", justify="right")
    for result in sorted(results, key=lambda result: result.status == "failed"):
        said, facts, error = result.description, result.facts, result.error
        shown = f"{error.stage}: {error.message}" if error else said.title if said else ""
        table.add_row(
            _plain(result.name),
            _plain(shown),
            str(len(said.keywords)) if said and not error else "",
            f"{facts.bytes_before / 1000:.0f} → {facts.bytes_after / 1000:.0f}" if facts else "",
            f"{result.total_ms / 1000:.1f}",
            style="red" if error else None,
        )
    out.print(table)
    failed = sum(result.status == "failed" for result in results)
    missing = total - len(results)
    out.print(
        f"{len(results) - failed} of {total} described, {failed} failed" + (f", {missing} not begun" if missing else "")
    )


def _build_bar() -> Progress:
    """The progress bar on standard error, which shows nothing where that is no terminal."""
    console = Console(stderr=True, highlight=False)
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} completed"),
        TextColumn("{task.fields[failed]} failed, {task.fields[running]} running, {task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _show(progress: ImageProgress, bar: Progress, task: TaskID) -> None:
    """Where the batch stands; on what is no terminal, a line for the image that has just ended."""
    if not bar.console.is_terminal:
        how = "failed" if progress.results[-1].error else "described"
        bar.console.print(f"{progress.completed} of {progress.total}: {_plain(progress.current)} {how}")
    left_s = round(progress.eta_ms / 1000)
    bar.update(
        task,
        completed=progress.completed,
        failed=progress.failed,
        running=progress.processing,
        left=f"{left_s // 60}:{left_s % 60:02d} left",
    )


@contextmanager
def _writing(path: Path | None) -> Iterator[TextIO | None]:
    """A file that takes its place at ``path`` when the block ends, whole, whatever ended it; refused before it begins.

    Raises:
        ImagesError: There is no writing there.
    """
    if path is None:
        yield None
        return
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ImagesError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise ImagesError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _plain(text: str) -> str:
    """Text that means nothing to the terminal: no control characters, no markup of rich."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("[", r"\[")
