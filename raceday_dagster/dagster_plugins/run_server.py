"""`python -m raceday_dagster.dagster_plugins.run_server`: a process for each run, forked from one that is ready.

It imports everything once and then does nothing but fork and wait: one thread, no database, no channel, so that a fork
copies no lock that is held and no socket that is in use. Whatever needs the database is done by a fork: a run, and the
report that the process of a run died. DAGSTER_HOME names the instance and the folder of the socket. Linux only.

A run outlives a run server that is killed. One that is told to stop (SIGTERM, SIGINT) takes no further run, lets those
under way finish, cancels the rest, kills what is left, and has ended in less than 4.5 s.
"""

import atexit
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

import click
import dagster as dg
from dagster._cli.api import _execute_run_command_body
from dagster._core.instance import InstanceRef
from dagster._utils.interrupts import capture_interrupts
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.dagster_plugins.forked_process import (
    LONGEST_MESSAGE,
    SOCKET,
    SOCKET_VARIABLE,
    CallRequest,
    Ending,
    Message,
    Refusal,
    RunRequest,
    at_path,
    identify,
)

PRELOAD = "raceday_dagster.dagster_plugins.run_preload"
LOCK = "run-server.lock"

FINISH_WITHIN_S = 2.0
"""For runs that end by themselves after the server is told to stop: a live batch takes less."""
CANCEL_WITHIN_S = 0.8
RECORD_WITHIN_S = 1.0
"""For what was killed to be recorded."""
REPORT_AGAIN_S = 1.0

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit code (75) of a report that did not reach the database."""
CRASHED = os.EX_SOFTWARE
UNFINISHED = 1
"""Exit code of a run's process that could not bring its run to an end."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
HANDLED_SIGNALS = (*STOP_SIGNALS, signal.SIGCHLD)

_REQUEST: TypeAdapter[RunRequest | CallRequest] = TypeAdapter(RunRequest | CallRequest)
_DATABASE_ERRORS = (SQLAlchemyError, dg.DagsterError, click.ClickException)
"""What a database that cannot be reached comes to; our storage raises the last."""


@dataclass(frozen=True)
class Death:
    """The end of a run's process that the run itself could not record."""

    run_id: str
    reason: str


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
        self._runs: dict[int, str] = {}
        self._calls: dict[int, socket.socket] = {}
        self._deaths: dict[int, Death] = {}
        self._canceller: int | None = None
        self._again: list[tuple[float, Death]] = []
        self._is_told_to_stop = self._is_stopping = False
        self._steps: list[tuple[float, Callable[[], None]]] = []
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
        return listener

    def serve(self) -> None:
        """Returns when the server was told to stop and has ended its runs. Call it in the main thread."""
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # one that is ignored would not wake anybody up
        for number in STOP_SIGNALS:
            signal.signal(number, self._note_stop)
        while not self._is_stopping or self._runs or self._calls or self._deaths or self._again or self._canceller:
            for key, _ in self._selector.select(self._find_pause_s()):
                key.data()
            self._reap()
            if self._is_told_to_stop and not self._is_stopping:
                self._begin_stop()
            self._do_what_is_due()

    def _find_pause_s(self) -> float | None:
        due = [at_s for at_s, _ in (*self._again, *self._steps)]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _do_what_is_due(self) -> None:
        now_s = time.monotonic()
        due = [death for at_s, death in self._again if at_s <= now_s]
        self._again = [(at_s, death) for at_s, death in self._again if at_s > now_s]
        for death in due:
            self._report(death)
        while self._steps and self._steps[0][0] <= now_s:
            self._steps.pop(0)[1]()

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
            answer = identify(self._fork_for(_REQUEST.validate_json(raw), descriptors, connection))
        except (OSError, ValidationError, ValueError) as error:
            answer = Refusal(error=f"{type(error).__name__}: {error}")
        for descriptor in descriptors:
            os.close(descriptor)
        _send(connection, answer)
        if connection not in self._calls.values():
            connection.close()

    def _fork_for(
        self, request: RunRequest | CallRequest, descriptors: Sequence[int], connection: socket.socket
    ) -> int:
        if isinstance(request, RunRequest):
            pid = self._fork(partial(execute_run, self._instance, request.run_id), connection)
            self._runs[pid] = request.run_id
            return pid
        if len(descriptors) != 1:
            raise ValueError("a call needs a descriptor")
        pid = self._fork(partial(call, request, descriptors[0]), connection)
        self._calls[pid] = connection
        return pid

    # Processes

    def _fork(self, work: Callable[[], int | None], *unneeded: socket.socket) -> int:
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
            for connection in (self._listener, *self._calls.values(), *unneeded):
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
                self._take_end(pid, os.waitstatus_to_exitcode(status))

    def _take_end(self, pid: int, code: int) -> None:
        if pid in self._runs:
            run_id = self._runs.pop(pid)
            if code != 0:
                self._report(Death(run_id, f"Process {pid} of this run {describe_end(code)}."))
        elif pid in self._calls:
            with self._calls.pop(pid) as connection:
                _send(connection, Ending(exit_code=code))
        elif pid in self._deaths:
            death = self._deaths.pop(pid)
            if code == TRY_AGAIN:
                self._again.append((time.monotonic() + REPORT_AGAIN_S, death))
        elif pid == self._canceller:
            self._canceller = None
            self._signal_all(self._runs, signal.SIGINT)

    def _report(self, death: Death) -> None:
        try:
            self._deaths[self._fork(partial(record_death, self._instance, death))] = death
        except OSError:
            self._again.append((time.monotonic() + REPORT_AGAIN_S, death))

    # The end

    def _note_stop(self, *_: object) -> None:
        self._is_told_to_stop = True  # the loop wakes up, and is not in the middle of something there

    def _begin_stop(self) -> None:
        self._is_stopping = True
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        now_s = time.monotonic()
        self._steps = [
            (now_s + FINISH_WITHIN_S, self._cancel_runs),
            (now_s + FINISH_WITHIN_S + CANCEL_WITHIN_S, self._kill_runs),
            (now_s + FINISH_WITHIN_S + CANCEL_WITHIN_S + RECORD_WITHIN_S, self._give_up),
        ]

    def _cancel_runs(self) -> None:
        # A run that is interrupted looks for what its status says: it is "failed" unless "cancelling" is there first.
        if self._runs:
            try:
                self._canceller = self._fork(partial(record_cancelling, self._instance, list(self._runs.values())))
            except OSError:
                self._signal_all(self._runs, signal.SIGINT)

    def _kill_runs(self) -> None:
        for pid, run_id in self._runs.items():
            _warn("run_killed", run_id=run_id, pid=pid, reason="it was cancelled and did not end")
        self._signal_all(self._runs, signal.SIGKILL)

    def _give_up(self) -> None:
        """The database does not answer: Dagster's time limits or the next start of the service end these runs."""
        self._signal_all((*self._runs, *self._calls, *self._deaths), signal.SIGKILL)
        self._signal_all([self._canceller] if self._canceller else [], signal.SIGKILL)
        for connection in self._calls.values():
            connection.close()
        for left in (self._runs, self._calls, self._deaths, self._again):
            left.clear()
        self._canceller = None

    @staticmethod
    def _signal_all(pids: Sequence[int] | dict[int, str], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)  # a child that was not waited for: no other process has its pid


def _send(connection: socket.socket, message: Message) -> None:
    with suppress(OSError):  # whoever asked has gone
        connection.send(message.model_dump_json().encode())


def _warn(event: str, **facts: object) -> None:
    """One JSON object a line on standard error, as the runs of this project log."""
    with suppress(OSError):
        line = {"event": event, **facts, "level": "warning", "time": datetime.now(UTC).isoformat()}
        sys.stderr.write(json.dumps(line) + "\n")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads, or it is closed
            stream.flush()


def describe_end(code: int) -> str:
    """How a process ended, as the rest of a sentence."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def call(request: CallRequest, descriptor: int) -> int | None:
    """Call the function of a request; its exit code."""
    module, _, name = request.function.partition(":")
    code: int | None = getattr(import_module(module), name)(descriptor, *request.arguments)
    return code


def execute_run(reference: InstanceRef, run_id: str) -> int:
    """Execute a run in this process, as `dagster api execute_run` does, but for its list of serialised events."""
    with capture_interrupts(), dg.DagsterInstance.from_ref(reference) as instance:
        _execute_run_command_body(run_id, instance, lambda _event: None, set_exit_code_on_failure=False)
        run = instance.get_run_by_id(run_id)
        # One that was cancelled before it began, for example, is not finished: somebody must say so.
        return UNFINISHED if run is not None and not run.is_finished else 0


def record_death(reference: InstanceRef, death: Death) -> int:
    """Mark a run whose process died as failed, or as cancelled if that was asked for, unless it is finished."""
    try:
        with dg.DagsterInstance.from_ref(reference) as instance:
            run = instance.get_run_by_id(death.run_id)
            if run is None or run.is_finished:
                return 0
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, message=death.reason)
            else:
                instance.report_run_failed(run, message=death.reason)
    except _DATABASE_ERRORS as error:
        _warn("run_end_not_recorded", run_id=death.run_id, reason=death.reason, error=str(error))
        return TRY_AGAIN
    return 0


def record_cancelling(reference: InstanceRef, run_ids: Sequence[str]) -> int:
    """Say of runs that they are being cancelled."""
    try:
        with dg.DagsterInstance.from_ref(reference) as instance:
            for run_id in run_ids:
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_canceling(run, message="The run server is stopping.")
    except _DATABASE_ERRORS as error:
        _warn("run_cancelling_not_recorded", run_ids=list(run_ids), error=str(error))
        return TRY_AGAIN
    return 0


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
