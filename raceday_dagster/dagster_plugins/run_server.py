"""`python -m raceday_dagster.dagster_plugins.run_server`: a process for each run, forked from one that is ready.

It imports everything once and then does nothing but fork and wait: one thread, no database, no channel, so that a fork
copies no lock that is held and no socket that is in use. What the forks do is in `run_process`. DAGSTER_HOME names the
instance and the folder of the socket. Linux only.

A run outlives a run server that is killed. One that is told to stop (SIGTERM, SIGINT) takes no further run, lets those
under way finish, cancels the rest, kills what is left, and has ended in less than 4.5 s.
"""

import atexit
import fcntl
import gc
import os
import sched
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

import click
from dagster._core.instance import InstanceRef
from pydantic import TypeAdapter, ValidationError

from raceday_dagster.dagster_plugins.forked_process import (
    LONGEST_MESSAGE,
    SOCKET,
    SOCKET_VARIABLE,
    CallRequest,
    Ending,
    Message,
    PingRequest,
    Refusal,
    RunRequest,
    at_path,
    identify,
)
from raceday_dagster.dagster_plugins.run_process import (
    TRY_AGAIN,
    Death,
    call,
    describe_end,
    execute_run,
    record_cancelling,
    record_death,
    warn,
)

PRELOAD = "raceday_dagster.dagster_plugins.run_preload"
LOCK = "run-server.lock"

FINISH_WITHIN_S = 2.0
"""For runs that end by themselves after the server is told to stop: a live batch takes less."""
CANCEL_WITHIN_S = 0.8
RECORD_WITHIN_S = 1.0
"""For what was killed to be recorded."""
RECORD_AGAIN_S = 1.0
LOOK_FOR_SOCKET_S = 2.0
"""How often: as long as the socket is gone, each run is launched the slow way."""

CRASHED = os.EX_SOFTWARE
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
HANDLED_SIGNALS = (*STOP_SIGNALS, signal.SIGCHLD)

Request = RunRequest | CallRequest | PingRequest
_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


class RunServer:
    """Listens in a DAGSTER_HOME, forks and waits.

    Args:
        home: DAGSTER_HOME, the folder of the socket.
        instance: Dagster's, as the forks open it.
        lock: Of `lock`, kept until the server ends.

    Raises:
        OSError: The socket cannot be made.
    """

    def __init__(self, home: Path, instance: InstanceRef, lock: TextIO) -> None:
        self._instance = instance
        self._path = home / SOCKET
        self._lock = lock
        self._children: dict[int, Callable[[int], None]] = {}
        """What is done with the exit code of each process."""
        self._runs: dict[int, str] = {}
        """Run ids by process."""
        self._calls: set[socket.socket] = set()
        self._unrecorded: set[Death] = set()
        self._timers = sched.scheduler(time.monotonic)
        self._is_told_to_stop = False
        self._listener = self._listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._woken, self._waker = os.pipe()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: os.read(self._woken, LONGEST_MESSAGE))

    def _listen(self) -> socket.socket:
        self._path.unlink(missing_ok=True)  # of a server that was killed: the lock says that none listens
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = os.umask(0o177)  # whoever may connect may run any function
        try:
            at_path(self._path, listener.bind)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        listener.listen(64)
        self._inode = self._path.stat().st_ino
        return listener

    def _look_for_socket(self) -> None:
        """Makes a socket again that a cleaner of old files removed: nobody would find this server any more."""
        if self._is_told_to_stop:
            return
        self._timers.enter(LOOK_FOR_SOCKET_S, 0, self._look_for_socket)
        try:
            with suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._inode:
                    return
            listener = self._listen()
        except OSError as error:
            warn("run_server_socket_is_gone", path=str(self._path), error=str(error))
            return
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = listener
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        warn("run_server_socket_made_again", path=str(self._path), reason="somebody had removed it")

    def serve(self) -> None:
        """Returns when the server was told to stop and has ended its runs. Call it in the main thread."""
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # one that is ignored would not wake anybody up
        for number in STOP_SIGNALS:
            signal.signal(number, self._note_stop)
        self._look_for_socket()
        pause_s = self._timers.run(blocking=False)
        while not self._is_told_to_stop or self._children or self._unrecorded:
            for key, _ in self._selector.select(pause_s):
                key.data()
            self._reap()
            if self._is_told_to_stop and self._listener.fileno() >= 0:
                self._begin_stop()
            pause_s = self._timers.run(blocking=False)

    # Requests

    def _accept(self) -> None:
        with suppress(OSError):  # it has gone again
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, partial(self._answer, connection))

    def _answer(self, connection: socket.socket) -> None:
        """One request, which is all of a connection. The one that asked for a call stays, to be told of its end."""
        self._selector.unregister(connection)
        descriptors: list[int] = []
        answer: Message
        try:
            raw, descriptors, _flags, _address = socket.recv_fds(connection, LONGEST_MESSAGE, 1)
            request = _REQUEST.validate_json(raw)
            if isinstance(request, PingRequest):
                answer = identify(os.getpid())
            else:
                answer = identify(self._fork_for(request, descriptors, connection))
        except (OSError, ValidationError, ValueError) as error:
            answer = Refusal(error=f"{type(error).__name__}: {error}")
        for descriptor in descriptors:
            os.close(descriptor)
        _send(connection, answer)
        if connection not in self._calls:
            connection.close()

    def _fork_for(
        self, request: RunRequest | CallRequest, descriptors: Sequence[int], connection: socket.socket
    ) -> int:
        if isinstance(request, RunRequest):
            execute = partial(execute_run, self._instance, request.run_id)
            pid = self._fork(execute, lambda code: self._end_run(pid, code), connection)
            self._runs[pid] = request.run_id
            return pid
        if len(descriptors) != 1:
            raise ValueError("a call needs a descriptor")
        pid = self._fork(partial(call, request, descriptors[0]), partial(self._end_call, connection), connection)
        self._calls.add(connection)
        return pid

    # Processes

    def _fork(self, work: Callable[[], int | None], on_end: Callable[[int], None], *unneeded: socket.socket) -> int:
        """Raises `OSError`: the system has no room for another process."""
        _flush()  # what is buffered would be written twice
        # A signal to the child must not be taken for one to this process, whose pipe it shares for a moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(work, unneeded)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        self._children[pid] = on_end
        return pid

    def _become(self, work: Callable[[], int | None], unneeded: Sequence[socket.socket]) -> NoReturn:
        """The life of a forked process: nothing of it returns to the server's code."""
        code: int | None = CRASHED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
            os.setsid()  # Ctrl-C and the end of a terminal are the server's business
            for connection in (self._listener, *self._calls, *unneeded):
                connection.close()
            for key in self._selector.get_map().values():
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            self._lock.close()
            os.close(self._woken)
            os.close(self._waker)
            code = work()
        finally:
            try:
                if sys.exception() is not None:
                    traceback.print_exc()
                atexit._run_exitfuncs()
                _flush()
            finally:
                os._exit(code or 0)

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # there is none
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._children:  # and no orphan that the system gave to this process
                    self._children.pop(pid)(os.waitstatus_to_exitcode(status))

    def _end_run(self, pid: int, code: int) -> None:
        run_id = self._runs.pop(pid)
        if code != 0:
            self._record(Death(run_id, f"Process {pid} of this run {describe_end(code)}."))

    def _end_call(self, connection: socket.socket, code: int) -> None:
        self._calls.remove(connection)
        with connection:
            _send(connection, Ending(exit_code=code))

    def _record(self, death: Death) -> None:
        self._unrecorded.add(death)
        try:
            self._fork(partial(record_death, self._instance, death), partial(self._end_record, death))
        except OSError:
            self._end_record(death, TRY_AGAIN)

    def _end_record(self, death: Death, code: int) -> None:
        if code == TRY_AGAIN:
            self._timers.enter(RECORD_AGAIN_S, 0, partial(self._record, death))
        else:
            self._unrecorded.remove(death)

    # The end

    def _note_stop(self, *_: object) -> None:
        self._is_told_to_stop = True  # the loop wakes up, and is not in the middle of something there

    def _begin_stop(self) -> None:
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._timers.enter(FINISH_WITHIN_S, 0, self._cancel_runs)
        self._timers.enter(FINISH_WITHIN_S + CANCEL_WITHIN_S, 0, self._kill_runs)
        self._timers.enter(FINISH_WITHIN_S + CANCEL_WITHIN_S + RECORD_WITHIN_S, 0, self._give_up)

    def _cancel_runs(self) -> None:
        # A run that is interrupted looks for what its status says: it is "failed" unless "cancelling" is there first.
        if self._runs:
            run_ids = list(self._runs.values())
            try:
                self._fork(partial(record_cancelling, self._instance, run_ids), self._interrupt_runs)
            except OSError as error:
                warn("run_cancelling_not_recorded", run_ids=run_ids, error=str(error))
                self._interrupt_runs()

    def _interrupt_runs(self, _code: int = 0) -> None:
        _signal(self._runs, signal.SIGINT)

    def _kill_runs(self) -> None:
        for pid, run_id in self._runs.items():
            warn("run_killed", run_id=run_id, pid=pid, reason="it was cancelled and did not end")
        _signal(self._runs, signal.SIGKILL)

    def _give_up(self) -> None:
        """What is not recorded by now is found by the next start of the service, or by Dagster's run monitoring."""
        _signal(self._children, signal.SIGKILL)
        self._children.clear()
        self._unrecorded.clear()


def _signal(children: Iterable[int], number: int) -> None:
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, number)  # until it has been waited for, no other process has its pid


def _send(connection: socket.socket, message: Message) -> None:
    with suppress(OSError):  # whoever asked has gone
        connection.send(message.model_dump_json().encode())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads, or it is closed
            stream.flush()


def lock(home: Path) -> TextIO:
    """The right to be the run server of a DAGSTER_HOME. Raises `BlockingIOError`: there is one."""
    file = (home / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def main() -> None:
    """Serve the DAGSTER_HOME of the environment until told to stop."""
    if "DAGSTER_HOME" not in os.environ:
        sys.exit("DAGSTER_HOME is not set: it names the instance whose runs are launched")
    home = Path(os.environ["DAGSTER_HOME"]).resolve()
    try:
        held = lock(home)
    except BlockingIOError:
        sys.exit(f"another run server works for {home}")
    os.environ[SOCKET_VARIABLE] = str(home / SOCKET)
    import_module(PRELOAD)
    server = RunServer(home, InstanceRef.from_dir(str(home)), held)
    gc.collect()
    gc.freeze()  # pages that the collector never touches again stay shared with the forks
    click.echo("run server ready", err=True)
    server.serve()
    # Nothing is left to close, and the interpreter would take a while to take itself apart.
    _flush()
    os._exit(0)


if __name__ == "__main__":
    main()
