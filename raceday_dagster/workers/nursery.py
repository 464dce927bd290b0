"""Where worker processes come from: a fork server of our own, with the calculation already imported.

``fork`` would hand a worker the database sockets of the parent, which would keep its locks alive after a kill;
``spawn`` costs an interpreter and the imports for each worker. The standard fork server is shared by the whole
process, may be running already with other modules in it, and makes each child run the parent's main module again
(for ``dagster`` that is half a second and a hundred megabytes). Hence one of our own, and no main module.

The server itself is a fork of this process that closes every descriptor it has no use for: a batch pays for no
interpreter, and for no import that its process has made already. A fork copies the locks of other threads, held as they
are: it is made at a moment when nobody imports, and a server that does not answer gives way to a new interpreter.

Written against CPython 3.11 to 3.13, whose ``popen_forkserver.Popen._launch`` and ``ForkServer.ensure_running`` this
follows, and ``importlib._bootstrap``, whose table of module locks is empty when nobody imports.
"""

from __future__ import annotations

import _imp
import gc
import io
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import _bootstrap
from multiprocessing import connection, forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import NoReturn

PRELOAD = ["raceday_dagster.workers.preload"]
MAIN_MODULE_KEYS = ("init_main_from_name", "init_main_from_path")
FORK_TIMEOUT_S = 5.0
"""For a forked server's imports; there is a second way if they take longer."""
SPAWN_TIMEOUT_S = 30.0
"""For an interpreter and its imports on a machine under load."""
LONGEST_TEMP_DIR = 70
"""In bytes; a socket's path may have 104, and multiprocessing appends to the folder's."""


class _Server(forkserver.ForkServer):
    _lock: threading.Lock
    _forkserver_address: str | None
    _forkserver_alive_fd: int | None
    _forkserver_pid: int | None
    _stop_unlocked: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload(PRELOAD)
        self._tried_to_fork = False
        self._forked_pid: int | None = None

    @property
    def patience_s(self) -> float:
        """Longest a worker may take to be born."""
        return FORK_TIMEOUT_S if self._forkserver_pid == self._forked_pid else SPAWN_TIMEOUT_S

    def fork(self) -> None:
        """Starts the server as a fork of this process, once. Left undone, the first worker spawns it."""
        with self._lock:
            if self._tried_to_fork or self._forkserver_pid is not None:
                return
            self._tried_to_fork = True
            with suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
                address = os.path.join(_make_temp_dir(), f"nursery-{os.getpid()}")
                listener.bind(address)
                os.chmod(address, 0o600)
                listener.listen()
                self._fork_around(listener, address)

    def _fork_around(self, listener: socket.socket, address: str) -> None:
        # What is buffered would be printed by both.
        _flush()
        with _blocked({signal.SIGINT, signal.SIGTERM}), _nobody_importing() as safe, warnings.catch_warnings():
            if not safe:
                return
            # Python warns of threads, whose locks a fork copies.
            warnings.simplefilter("ignore", DeprecationWarning)
            is_alive, alive = os.pipe()
            try:
                pid = os.fork()
            except OSError:
                os.close(alive)
                raise
            else:
                if pid == 0:
                    _serve(listener.fileno(), is_alive)
            finally:
                os.close(is_alive)
            self._forkserver_address, self._forkserver_alive_fd, self._forkserver_pid = address, alive, pid
            self._forked_pid = pid

    def kill(self, pid: int | None) -> None:
        """Ends this server for good, unless it has ended already. The next worker spawns another."""
        with self._lock:
            if pid is not None and pid == self._forkserver_pid:
                os.kill(pid, signal.SIGKILL)
                self._stop_unlocked()

    def forget(self) -> None:
        """In a fork of this process, of which the server is no child."""
        if self._forkserver_alive_fd is not None:
            os.close(self._forkserver_alive_fd)
        self._lock = threading.Lock()
        self._forkserver_address = self._forkserver_alive_fd = self._forkserver_pid = None


def _serve(listener: int, is_alive: int) -> NoReturn:
    """The life of the forked server; it ends when the last holder of the pipe's other end does."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _imp.release_lock()
        # What the parent had thrown away but not yet collected stays: a database connection among it would say goodbye
        # on a socket that is the parent's.
        gc.freeze()
        for descriptor in {int(name) for name in os.listdir("/dev/fd")} - {0, 1, 2, listener, is_alive}:
            with suppress(OSError):  # the listing's own is closed already
                os.close(descriptor)
        forkserver.main(listener, is_alive, PRELOAD)
    finally:
        # Whatever it was, it must not unwind what is the parent's.
        ended_well = isinstance(sys.exception(), SystemExit)
        try:
            if not ended_well:
                traceback.print_exc()
                _flush()
        finally:
            os._exit(not ended_well)


_SERVER = _Server()
"""Started with the first pool, ends with the process. Shared by all pools of the process: it holds no state."""
os.register_at_fork(after_in_child=_SERVER.forget)


class _Popen(popen_forkserver.Popen):
    _fds: list[int]

    def _launch(self, process_obj: BaseProcess) -> None:
        preparation = spawn.get_preparation_data(process_obj.name)
        for key in MAIN_MODULE_KEYS:
            preparation.pop(key, None)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(preparation, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        resource_tracker.ensure_running()
        # Children inherit the mask: Ctrl-C is the parent's business, from their first instruction on.
        with _blocked({signal.SIGINT}):
            self.sentinel, writer = _SERVER.connect_to_new_process(self._fds)
        server_pid = _SERVER._forkserver_pid
        # The child's sign that we are alive: it reads the end of this pipe when we are gone.
        alive = os.dup(writer)
        self.finalizer = util.Finalize(self, _close_all, (alive, self.sentinel))
        with open(writer, "wb", closefd=True) as pipe:
            pipe.write(message.getbuffer())
        if not connection.wait([self.sentinel], _SERVER.patience_s):
            _SERVER.kill(server_pid)
            raise TimeoutError("the fork server does not answer")
        try:
            self.pid = forkserver.read_signed(self.sentinel)
        except EOFError as error:
            raise ConnectionResetError("the fork server died") from error


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Popen:  # noqa: N802  the name multiprocessing calls
        return _Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _nobody_importing() -> Iterator[bool]:
    """Whether no import is under way in any thread; if so, none begins before the block ends."""
    _imp.acquire_lock()
    try:
        yield not vars(_bootstrap).get("_module_locks", "unknown")
    finally:
        _imp.release_lock()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # there is none, or it is closed
            stream.flush()


def _make_temp_dir() -> str:
    """multiprocessing's folder, which is where its sockets are; in a place whose path leaves room for their names."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > LONGEST_TEMP_DIR:
        tempfile.tempdir = "/tmp"  # noqa: S108  a private folder in it
    try:
        return util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def build_context() -> ForkServerContext:
    """A multiprocessing context whose processes come from our fork server."""
    if threading.current_thread() is threading.main_thread():
        _SERVER.fork()
    return _Context()
