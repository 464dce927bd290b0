"""Processes that the run server forks for others: how to ask for one, and how to watch and end it.

Belongs here: the client's side of the run server's socket, and what identifies a process. Does not: anything of
Dagster. Linux only; where there is no run server, `connect` raises `OSError` and the caller starts its process itself.
"""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

SOCKET = "run-server.sock"
"""Of the run server, in its DAGSTER_HOME."""
SOCKET_VARIABLE = "RACEDAY_RUN_SERVER"
"""Names the socket's path in every process that a run server forked."""
REPLY_WITHIN_S = 5.0
LONGEST_MESSAGE = 65_536
"""In bytes. Messages are JSON objects; the socket keeps them apart."""

UNKNOWN = 255
"""The exit code of a process whose end nobody was left to tell, as in `multiprocessing`."""


class RunServerError(ConnectionError):
    """The run server took a request and refused it, or gave no answer in time: a process may have been forked."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunRequest(Message):
    """Asks for a process that executes a run. The answer is a `ProcessIdentity`."""

    run_id: str


class PingRequest(Message):
    """Asks for nothing. The answer is the `ProcessIdentity` of the run server itself."""

    ping: Literal[True]


class CallRequest(Message):
    """Asks for a process that calls `function(descriptor, *arguments)`, with the one descriptor that is passed along.

    The answer is a `ProcessIdentity`, and an `Ending` when the process has ended.
    """

    function: str
    """As `module:name`. What it returns is the exit code, `None` for 0."""
    arguments: tuple[str, ...] = ()


class Refusal(Message):
    """The answer to a request that is not carried out."""

    error: str


class Ending(Message):
    """How a process ended: its exit code, or the number of a signal below zero."""

    exit_code: int


class ProcessIdentity(Message):
    """A process of some machine, told apart from a later one with the same pid."""

    pid: int
    born: int
    """When it began, in ticks since the machine started."""
    host: str

    def is_alive(self) -> bool:
        """Whether it runs on this machine. One of another machine is never seen alive."""
        return self.is_here() and read_birth(self.pid) == self.born

    def is_here(self) -> bool:
        """Whether it is a process of this machine, which alone can watch it."""
        return self.host == socket.gethostname()

    def send_signal(self, number: int) -> bool:
        """Whether the process was there to be sent a signal."""
        with suppress(OSError):
            handle = os.pidfd_open(self.pid)  # holds on to the process while its birth is compared
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(handle, number)
                    return True
            finally:
                os.close(handle)
        return False


def identify(pid: int) -> ProcessIdentity:
    """The identity of a child that has not been waited for."""
    return ProcessIdentity(pid=pid, born=read_birth(pid) or 0, host=socket.gethostname())


def read_birth(pid: int) -> int | None:
    """When a process began, in ticks since the machine started; `None` if there is none, or only a zombie."""
    try:
        # After the name, which may hold anything: the state, and the start as the twentieth.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def at_path(path: Path, use: Callable[[str], None]) -> None:
    """Bind or connect a socket at a path of any length: a socket's own may have 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def connect(path: Path, reply_within_s: float = REPLY_WITHIN_S) -> socket.socket:
    """A connection to the run server that listens at a path. Raises `OSError`: there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(reply_within_s)
        at_path(path, connection.connect)
    except OSError:
        connection.close()
        raise
    return connection


_Answer = TypeVar("_Answer", bound=Message)


def ask(connection: socket.socket, request: Message, *descriptors: int) -> ProcessIdentity:
    """Have a process forked, or a ping answered. Raises `RunServerError`."""
    try:
        socket.send_fds(connection, [request.model_dump_json().encode()], descriptors)
        raw = connection.recv(LONGEST_MESSAGE)
    except OSError as error:
        raise RunServerError(f"the run server did not answer: {error}") from error
    if not raw:
        raise RunServerError("the run server ended before it answered")
    try:
        return ProcessIdentity.model_validate_json(raw)
    except ValidationError:
        raise RunServerError(Refusal.model_validate_json(raw).error) from None


class ForkedProcess:
    """A process that the run server forked for this one, watched and ended like a `multiprocessing.Process`."""

    def __init__(self, connection: socket.socket, identity: ProcessIdentity) -> None:
        self._connection = connection
        self._identity = identity
        self._exit_code: int | None = None

    @property
    def pid(self) -> int:
        return self._identity.pid

    @property
    def exitcode(self) -> int | None:
        """`None` while it runs; below zero the number of a signal; `UNKNOWN` if the run server ended first."""
        self.join(0)
        return self._exit_code

    def is_alive(self) -> bool:
        return self._identity.is_alive()

    def kill(self) -> None:
        self._identity.send_signal(signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or until nobody can tell, for at most `timeout` seconds."""
        if self._exit_code is not None:
            return
        self._connection.settimeout(timeout)
        try:
            raw = self._connection.recv(LONGEST_MESSAGE)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            raw = b""
        self._exit_code = Ending.model_validate_json(raw).exit_code if raw else UNKNOWN

    def close(self) -> None:
        """Stop watching it; it goes on."""
        self._connection.close()


def fork_call(target: str, descriptor: int, *arguments: str) -> ForkedProcess:
    """Have the run server that forked this process fork another, which calls `target` (`module:function`).

    Args:
        target: Called with the descriptor (its own copy) and the arguments; must be importable by name.
        descriptor: Of an open file or socket of this process.
        arguments: Texts, 64 kB in all.

    Raises:
        OSError: No run server forked this process, or it is gone; the caller may start the process some other way.
        RunServerError: It took the request. Another process with this descriptor might be the second.
    """
    connection = connect(Path(os.environ.get(SOCKET_VARIABLE, "")))
    try:
        identity = ask(connection, CallRequest(function=target, arguments=arguments), descriptor)
    except RunServerError:
        connection.close()
        raise
    return ForkedProcess(connection, identity)
