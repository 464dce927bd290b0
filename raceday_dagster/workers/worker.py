"""One worker as its parent sees it: a process, and the pipe to it, whose end of file is the worker's death."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from typing import Protocol

from raceday_dagster.workers.entry import Calculation, name_calculation, serve_descriptor
from raceday_dagster.workers.socket_folder import make_socket_folder

START_TIMEOUT_S = 30.0
"""For an interpreter and its imports on a machine under load."""
EXIT_TIMEOUT_S = 2.0
"""For the exit code of a process that has closed its pipe, or was killed."""
PRELOAD = ["raceday_dagster.workers.preload"]


class WorkerProcess(Protocol):
    """What a worker needs of its process; ``multiprocessing.Process`` has it."""

    @property
    def pid(self) -> int | None: ...

    @property
    def exitcode(self) -> int | None: ...

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end: ``exitcode`` is up to date afterwards, and negative if a signal ended it."""

    def kill(self) -> None: ...

    def close(self) -> None: ...


StartProcess = Callable[[Connection, Calculation | None], WorkerProcess]
"""Starts a process in which ``entry.serve_descriptor`` is given this end of a pipe and this calculation, or the usual
one. The caller closes its copy of that end afterwards. Raises ``OSError`` if there will be no such process."""


class WorkerDied(Exception):  # noqa: N818  a loss, which the pool repairs; the error is TransformError
    """The worker is gone. ``in_task`` if it was alive to take the task."""

    def __init__(self, reason: str, *, in_task: bool = False) -> None:
        super().__init__(reason)
        self.in_task = in_task


class Worker:
    """A worker process, used by one thread at a time; only ``hang_up`` may come from another.

    Args:
        worker_id: Its number in the log.
        transfer_timeout_s: Longest a message may stand still half-way: in a worker that was stopped in the middle of
            one, it would stand still for ever.
    """

    def __init__(self, worker_id: int, *, transfer_timeout_s: float) -> None:
        self.worker_id = worker_id
        self.pid: int | None = None
        self._process: WorkerProcess | None = None
        self._socket, self._theirs = socket.socketpair()
        limit = struct.pack("ll", *divmod(round(transfer_timeout_s * 1_000_000), 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._pipe = Connection(os.dup(self._socket.fileno()))

    def open(self, start_process: StartProcess, calculation: Calculation | None) -> None:
        """Starts the process and waits until it has imported its calculation.

        Raises:
            WorkerDied: It did not come up, or ``hang_up`` was called; it must be closed.
        """
        try:
            with Connection(self._theirs.detach()) as theirs:
                self._process = start_process(theirs, calculation)
            self.pid = self._process.pid
            if not self._pipe.poll(START_TIMEOUT_S):
                raise WorkerDied(f"the worker did not start within {START_TIMEOUT_S:g} s")
            self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerDied(f"the worker did not start: {error or 'it died'}") from error

    def ask(self, request: bytes, timeout_s: float) -> bytes:
        """The worker's reply to one encoded request.

        Raises:
            WorkerDied: The worker died, or was killed; it must be closed.
            TimeoutError: There was no answer within ``timeout_s``. The worker may still run, and must be closed.
        """
        try:
            # An idle worker says nothing: what can be read is the end of the pipe.
            if self._pipe.poll(0):
                raise WorkerDied("the worker was found dead")
            self._pipe.send_bytes(request)
            if self._pipe.poll(timeout_s):
                return self._pipe.recv_bytes()
        except BlockingIOError:
            pass  # the limit of a transfer
        except (EOFError, OSError) as error:
            raise WorkerDied("the worker died in the task", in_task=True) from error
        raise TimeoutError(f"no answer within {timeout_s:g} s")

    def hang_up(self) -> None:
        """Closes the pipe for both ends: the worker ends itself, and who waits for its answer learns that it died."""
        with suppress(OSError):  # it has closed its end already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, *, dead: bool) -> int | None:
        """Ends the worker and gives back what it held.

        Args:
            dead: The pipe was seen closed: the exit code is on its way.

        Returns:
            The exit code, if the worker had ended by itself.
        """
        code = None
        if self._process is not None:
            self._process.join(EXIT_TIMEOUT_S if dead else 0)
            code = self._process.exitcode
            if code is None:
                self._process.kill()
                self._process.join(EXIT_TIMEOUT_S)
            self._process.close()
        for end in (self._pipe, self._socket, self._theirs):
            end.close()
        return code


def start_by_fork_server(pipe: Connection, calculation: Calculation | None) -> WorkerProcess:
    """A worker from Python's standard fork server. It waits until that server has imported the calculation.

    Raises:
        OSError: The server gave no process.
    """
    forkserver.set_forkserver_preload(PRELOAD)
    make_socket_folder()
    # What the server starts inherits the mask: Ctrl-C is the parent's business from the first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        status, order = forkserver.connect_to_new_process([pipe.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        with open(order, "wb") as stream:
            stream.write(pickle.dumps({"sys_path": sys.path}))
            stream.write(pickle.dumps(_Order(name_calculation(calculation))))
        return _ForkedProcess(status)
    except (EOFError, OSError) as error:
        os.close(status)
        raise ConnectionResetError("the fork server died") from error


class _Order:
    """What the fork server's child unpickles and starts, in place of a ``multiprocessing.Process``.

    A ``Process`` would have the child run the main module of the calling program again: for ``dagster`` that is half a
    second and a hundred megabytes a worker.
    """

    def __init__(self, calculation: str) -> None:
        self._calculation = calculation

    def _bootstrap(self, _parent: int) -> int:
        descriptors = forkserver.get_inherited_fds()
        assert descriptors is not None  # this is a child of the fork server
        return serve_descriptor(descriptors[0], self._calculation)


class _ForkedProcess:
    """A child of the fork server, which tells us of it through ``status``: first its pid, in the end its exit code."""

    def __init__(self, status: int) -> None:
        self.pid = forkserver.read_signed(status)
        self.exitcode: int | None = None
        self._status = status

    def join(self, timeout: float | None = None) -> None:
        if self.exitcode is None and connection.wait([self._status], timeout):
            try:
                self.exitcode = forkserver.read_signed(self._status)
            except EOFError:  # the server was killed
                self.exitcode = 255

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        os.close(self._status)
