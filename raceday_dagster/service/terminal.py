"""Lines for the operator, printed by a thread: a terminal that stands still (Ctrl-S, a full pipe) stops nothing.

Whoever waited for it would be the main thread, which could then not be told to stop, or the reader of a child's output,
and the child would wait as soon as its pipe is full.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Full, Queue

MOST_WAITING = 1000
LAST_LINES_WITHIN_S = 1.0


@contextmanager
def printing_to(descriptor: int, encoding: str) -> Iterator[Callable[[str], None]]:
    """A function that prints one line to an open file, without waiting, and from any thread.

    What the encoding lacks is escaped. Lines are lost that the file cannot take, or that are too many by then.
    """
    lines: Queue[str | None] = Queue(MOST_WAITING)

    def say(line: str) -> None:
        with suppress(Full):
            lines.put_nowait(line)

    def print_lines() -> None:
        while (line := lines.get()) is not None:
            left = f"{line}\n".encode(encoding, "backslashreplace")
            with suppress(OSError):  # it may be gone; the service is not its slave
                # Not through a stream: at the end the interpreter would wait for its lock.
                while left:
                    left = left[os.write(descriptor, left) :]

    printer = threading.Thread(target=print_lines, name="terminal", daemon=True)
    printer.start()
    try:
        yield say
    finally:
        with suppress(Full):
            lines.put_nowait(None)
            printer.join(LAST_LINES_WITHIN_S)
