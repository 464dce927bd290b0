"""One child: a process in a session of its own that dies with this one, and whose output is read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import raceday_dagster
from raceday_dagster.service import parent_death

LONGEST_LINE = 65_536
"""Bytes; a longer line is cut in two."""
_READ_REST_S = 0.5


class ChildProcess:
    """Starts ``command`` in a session of its own: a Ctrl-C at the terminal reaches only the supervisor.

    Call it from the main thread only (``parent_death`` says why).

    Args:
        take: Called with each line that it prints, from a thread.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], take: Callable[[str], None]) -> None:
        starter = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*starter, *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Python looks for a module where it is started first: the child runs this very package.
            cwd=Path(raceday_dagster.__file__).parents[1],
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=read_lines, args=(self._process.stdout, take), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process, its session and its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or ``None`` while it runs."""
        return self._process.poll()

    def has_ended(self) -> bool:
        """Whether it runs no more; unlike ``poll``, this leaves it to ``kill`` to take its exit code."""
        return has_ended(self.pid)

    def end(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, and all that is left of its group, at once."""
        # As long as nobody has taken its exit code, its number and that of its group are nobody else's.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_READ_REST_S)


def read_lines(stream: IO[bytes], take: Callable[[str], None]) -> None:
    """Hand on every line until the last writer has closed the stream."""
    with stream:
        while line := stream.readline(LONGEST_LINE):
            take(line.decode(errors="replace"))


def has_ended(child_pid: int) -> bool:
    """Whether a child of this process runs no more; its exit code is left for whoever started it."""
    try:
        return os.waitid(os.P_PID, child_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
