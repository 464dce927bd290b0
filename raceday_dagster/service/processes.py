"""One child: a process in a session of its own that dies with this one, its output read, its descendants found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import raceday_dagster
from raceday_dagster.service import tied_start
from raceday_dagster.service.child_output import ChildOutput
from raceday_dagster.service.process_stat import list_pids, read_process

LONGEST_LINE = 65_536
"""Bytes; a longer line is cut in two."""
_READ_REST_S = 0.5


class Child(Protocol):
    """A child as the supervisor sees it."""

    @property
    def pid(self) -> int:
        """Of the process, its session and its group."""
        ...

    def poll(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or ``None`` while it runs."""
        ...

    def is_gone(self) -> bool:
        """Whether it and all it started in its group have ended."""
        ...

    def end(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it, and all that is left of its group, at once."""
        ...


class ChildProcess:
    """Starts ``command`` in a session of its own: a Ctrl-C at the terminal reaches only the supervisor.

    Call it from the main thread only (``tied_start`` says why).
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: ChildOutput) -> None:
        tied = [sys.executable, "-I", "-S", tied_start.__file__, str(os.getpid()), *command]
        self._process = subprocess.Popen(
            tied,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Python looks for a module where it is started first: the child runs this very package.
            cwd=Path(raceday_dagster.__file__).parents[1],
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=read_lines, args=(self._process.stdout, output.take), name=output.name, daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def is_gone(self) -> bool:
        return self.poll() is not None and not has_living_group(self.pid)

    def end(self) -> None:
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        # The group keeps its number while any of its members lives, so no stranger can be hit once one was seen.
        if self.poll() is None or has_living_group(self.pid):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_READ_REST_S)


def read_lines(stream: IO[bytes], take: Callable[[str], None]) -> None:
    """Hand on every line until the last writer has closed the stream."""
    with stream:
        while line := stream.readline(LONGEST_LINE):
            take(line.decode(errors="replace"))


def has_living_group(group: int) -> bool:
    """Whether a process of the group lives; zombies do not count."""
    pids = list_pids()
    if not pids:  # no /proc here
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    return any(found.group == group for pid in pids if (found := read_process(pid)) is not None)
