"""Where worker processes come from: a fork server of our own, with the calculation already imported.

``fork`` would hand a worker the database sockets of the parent, which would keep its locks alive after a kill;
``spawn`` costs an interpreter and the imports for each worker. The standard fork server is shared by the whole
process, may be running already with other modules in it, and makes each child run the parent's main module again
(for ``dagster`` that is half a second and a hundred megabytes). Hence one of our own, and no main module.

Written against CPython 3.11 to 3.13, whose ``popen_forkserver.Popen._launch`` this follows.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess

PRELOAD = ["raceday_dagster.transform.worker_preload"]
MAIN_MODULE_KEYS = ("init_main_from_name", "init_main_from_path")

_SERVER = forkserver.ForkServer()
"""Started with the first worker, ends with the process. Shared by all pools of the process: it holds no state."""
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
    return _Context()
