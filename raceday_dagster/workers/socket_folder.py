"""The folder in which multiprocessing keeps the socket of its fork server: short, and gone when its process is.

multiprocessing removes its folder when the process ends, but a killed process removes nothing. So that folder is made
inside one of ours, on which the process holds a lock: a free lock means that nobody needs it any more, and the next
process that starts workers removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

PREFIX = "raceday-workers-"
LONGEST_PARENT = 45
"""In bytes; a socket's path may have 104, of which this folder, multiprocessing's in it and the socket take 57."""

_making = threading.Lock()
_made: list[Path] = []


def make_socket_folder() -> None:
    """Has multiprocessing put its folder into one of this process's, once. Raises ``OSError``: there is no room."""
    with _making:
        if _made:
            return
        usual = tempfile.gettempdir()
        parent = Path(usual if len(os.fsencode(usual)) <= LONGEST_PARENT else "/tmp")  # noqa: S108  a private folder in it
        for left in parent.glob(f"{PREFIX}*"):
            _remove_if_left(left)
        _made.append(_make_locked(parent))
        tempfile.tempdir = str(_made[0])
        try:
            util.get_temp_dir()
        finally:
            tempfile.tempdir = usual
        # After multiprocessing has removed its own, which is at -100.
        util.Finalize(None, shutil.rmtree, args=(_made[0],), kwargs={"ignore_errors": True}, exitpriority=-101)


def _make_locked(parent: Path) -> Path:
    """A new folder that is locked until this process ends."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # somebody saw it unlocked, and took it for one that was left
            lock = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if own.exists():
                return own
            os.close(lock)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # locked by its process, somebody else's, or gone
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.getuid():
                shutil.rmtree(folder)
        finally:
            os.close(lock)
