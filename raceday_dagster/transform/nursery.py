"""Where worker processes come from: a fork server of our own, with the calculation already imported.

``fork`` would hand a worker the database sockets of the parent, which would keep its locks alive after a kill;
``spawn`` costs an interpreter and the imports for each worker. The standard fork server is shared by the whole
process, may be running already with other modules in it, and makes each child run the parent's main module again
(for ``dagster`` that is half a second and a hundred megabytes). Hence one of our own, and no main module.

The server itself is a fork of this process that closes every descriptor it has no use for: a batch pays for no
interpreter, and for no import that its process has made already.

Written against CPython 3.11 to 3.13, whose ``popen_forkserver.Popen._launch`` and ``ForkServer.ensure_running`` this
follows.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import NoReturn

PRELOAD = ["raceday_dagster.transform.worker_preload"]
MAIN_MODULE_KEYS = ("init_main_from_name", "init_main_from_path")


class _Server(forkserver.ForkServer):
    _lock: threading.Lock
    _forkserver_address: str | None
    _forkserver_alive_fd: int | None
    _forkserver_pid: int | None

    def fork(self) -> None:
        """Starts the server as a fork of this process, unless it runs. Left undone, the first worker spawns it."""
        with self._lock, socket.socket(socket.AF_UNIX) as listener, warnings.catch_warnings():
            if self._forkserver_pid is not None:
                return
            address = os.path.join(util.get_temp_dir(), f"nursery-{os.getpid()}")
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen()
            is_alive, alive = os.pipe()
            # Python warns of threads, whose locks a fork copies: the child takes none that they could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if pid == 0:
                _serve(listener.fileno(), is_alive)
            os.close(is_alive)
            self._forkserver_address, self._forkserver_alive_fd, self._forkserver_pid = address, alive, pid


def _serve(listener: int, is_alive: int) -> NoReturn:
    """The life of the forked server; it ends when the last holder of the pipe's other end does."""
    status = 1
    try:
        # What the parent had thrown away but not yet collected stays: a database connection among it would say goodbye
        # on a socket that is the parent's.
        gc.freeze()
        for descriptor in {int(name) for name in os.listdir("/dev/fd")} - {0, 1, 2, listener, is_alive}:
            with suppress(OSError):  # the listing's own is closed already
                os.close(descriptor)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forkserver.main(listener, is_alive, PRELOAD)
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


_SERVER = _Server()
"""Started with the first pool, ends with the process. Shared by all pools of the process: it holds no state."""
_SERVER.set_forkserver_preload(PRELOAD)


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
        with _interrupts_blocked():
            self.sentinel, writer = _SERVER.connect_to_new_process(self._fds)
        # The child's sign that we are alive: it reads the end of this pipe when we are gone.
        alive = os.dup(writer)
        self.finalizer = util.Finalize(self, _close_all, (alive, self.sentinel))
        with open(writer, "wb", closefd=True) as pipe:
            pipe.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


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
def _interrupts_blocked() -> Iterator[None]:
    """Children inherit the mask: Ctrl-C is the parent's business, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def build_context() -> ForkServerContext:
    """A multiprocessing context whose processes come from our fork server."""
    if threading.current_thread() is threading.main_thread():
        _SERVER.fork()
    return _Context()
