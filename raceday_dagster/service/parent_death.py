"""Becomes another program, which the system kills when the process that started it dies.

Run by path, as ``python -I -S parent_death.py PARENT_PID PROGRAM ARGUMENT...``: 20 ms, and nothing of ours is imported.
``prctl`` in a ``preexec_fn`` would be Python code in a forked copy of a process with threads, which may deadlock. The
parent-death signal set here survives ``exec``, and what the program starts does not inherit it: a run ends by itself.

The kernel sends the signal when the *thread* that started the child ends, so children are started from the main one.
Only Linux has this call; elsewhere a killed ``raceday up`` leaves its children running.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")  # it died before the signal was set
    os.execv(program[0], program)  # noqa: S606  (a shell is what this must not be)


if __name__ == "__main__":
    main()
