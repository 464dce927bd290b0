"""The archive's folder: ``<folder>/<table>/<partition>.parquet``, never overwritten, never half a file.

A file is written under a name that nobody reads, forced to disk, then renamed. A racing day that is archived a second
time, after a replay, becomes ``<partition>_2.parquet``: a row that is in both counts as the later file has it. One
process at a time: the folder has a lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raceday_dagster.errors import ArchiveError

PARTIAL = ".partial"
LOCK = ".lock"


class ArchiveFolder:
    """A folder that is ours while the block of ``open_folder`` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_files(self, table: str, partition: str) -> list[Path]:
        """The files a partition has already, the first first."""
        files: list[Path] = []
        while (file := self._name(table, partition, len(files) + 1)).exists():
            files.append(file)
        return files

    @contextmanager
    def partial(self, table: str, partition: str, suffix: str) -> Iterator[Path]:
        """A path for a file in the making, gone when the block ends unless it was ``keep``-ed."""
        path = self.folder / table / f".{partition}.{suffix}{PARTIAL}"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # a process that was killed left it
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, partial: Path, table: str, partition: str) -> Path:
        """Gives a finished file its name, so that a power cut leaves it whole or not at all. Raises ``OSError``."""
        _force(partial)
        target = self._name(table, partition, len(self.find_files(table, partition)) + 1)
        partial.rename(target)
        self.force(target)
        return target

    def force(self, file: Path) -> None:
        """Has the disk hold a file and its name before anybody relies on them. Raises ``OSError``."""
        for path in (file, file.parent, self.folder):
            _force(path)

    def _name(self, table: str, partition: str, number: int) -> Path:
        return self.folder / table / f"{partition}{'' if number == 1 else f'_{number}'}.parquet"


@contextmanager
def open_folder(folder: Path) -> Iterator[ArchiveFolder]:
    """Makes the folder and holds its lock.

    Raises:
        ArchiveError: It cannot be written to, or another process archives into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise ArchiveError(
            f"the archive folder {folder} cannot be written to ({error.strerror}): nothing was archived, and nothing "
            "is lost; correct ARCHIVE_DIR or its permissions"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArchiveError(
                f"the archive folder {folder} is in use by another process ({error.strerror})"
            ) from error
        yield ArchiveFolder(folder)


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
