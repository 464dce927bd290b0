"""A clock of other processes that a test sets, by libfaketime: `make faketime` installs it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
SLEEP = """
import select, time


def sleep(seconds):
    if seconds > 0:
        select.select([], [], [], seconds)


time.sleep = sleep
"""
"""Python sleeps until an instant of the monotonic clock, which libfaketime 0.9 cannot."""


class Clock:
    """How far the wall clock of those processes is ahead of the machine's; their monotonic clock is the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(timedelta(0))

    def set(self, ahead: timedelta) -> None:
        """They see it within a second."""
        making = self._file.with_suffix(".new")
        making.write_text(f"+{ahead.total_seconds():.0f}\n")
        making.replace(self._file)


@pytest.fixture(scope="module")
def clock_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clock") / "ahead"


@pytest.fixture(scope="module")
def clock_variables(clock_file: Path) -> dict[str, str]:
    """The environment of a process with such a clock; nothing where the library is missing."""
    if not LIBRARIES:
        return {}
    Clock(clock_file)
    (clock_file.parent / "sitecustomize.py").write_text(SLEEP)
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock_file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(clock_file.parent),
    }


@pytest.fixture
def clock(clock_file: Path) -> Iterator[Clock]:
    """That clock, on the machine's time before and after."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed: on Debian, as root, `make faketime`")
    clock = Clock(clock_file)
    yield clock
    clock.set(timedelta(0))
