"""Running one command in the foreground and waiting for it, whatever signals come by."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from raceday_dagster.errors import SandboxError


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs ``command`` to its end and returns its exit code, 128 + n when signal n ended it.

    Ctrl-C reaches the command through the terminal; a SIGTERM is handed on. Either way the caller gets to clean up
    after the command has ended, not before.

    Raises:
        SandboxError: There is no such command.
    """
    running: list[subprocess.Popen[bytes]] = []
    # Before the command starts: it would inherit that SIGINT is ignored, as a script's background job has it, and
    # `dagster dev` then cannot be stopped. A handler is not inherited.
    with _handing_on(running):
        try:
            running.append(subprocess.Popen(command, env=dict(environment)))
        except OSError as error:
            raise SandboxError(f"cannot run {command[0]!r}: {error.strerror}") from error
        code = running[0].wait()
    return 128 - code if code < 0 else code


def wait_for_stop() -> None:
    """Returns when Ctrl-C or a SIGTERM has come."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        signal.sigwait(signals)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handing_on(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def hand_on(number: int, _frame: FrameType | None) -> None:
        # A terminal has sent its SIGINT to the whole group already.
        for process in running:
            if number != signal.SIGINT and process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
