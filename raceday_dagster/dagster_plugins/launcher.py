"""How a run gets its process: which runs wait in Dagster's queue, and where run workers come from.

Belongs here: all that reaches into Dagster for the launch. Does not: what a run does, and when one is due.

Two parts, each of which gives way to the stock launch when Dagster is no longer what it was written for:

* `LiveLaneRunCoordinator`, named in `dagster.yaml`: a run tagged `LANE_TAG: LIVE` is launched by whoever submits it,
  every other goes to the queue, under the tag that the queue's limit counts.
* `python -m raceday_dagster.dagster_plugins.launcher --socket PATH`: the code server of Dagster (`dagster api grpc`,
  same options) for our definitions. Its run workers are forks of a server that has imported everything, where the stock
  one starts an interpreter for each. On SIGTERM it ends within seconds, and no run of it stays "started".
"""

import atexit
import inspect
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import connection, forkserver, popen_forkserver, popen_spawn_posix, synchronize, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import click
import dagster as dg
from dagster._core.run_coordinator.base import SubmitRunContext
from sqlalchemy.exc import SQLAlchemyError

LANE_TAG = "raceday/lane"
LIVE = "live"
QUEUED = "queued"

LOCATION = "raceday_dagster"
MODULE = "raceday_dagster.definitions"
PRELOAD = ("raceday_dagster.dagster_plugins.run_preload",)

FINISH_WITHIN_S = 2.0
"""For runs that end by themselves after the code server is told to stop: a live batch takes less."""
CANCEL_WITHIN_S = 0.8
CLEAR_WITHIN_S = 1.0
"""For what was killed to be found and recorded as failed."""
EXIT_WITHIN_S = 1.0
"""For calls under way when everything else has ended, such as a sensor that sleeps until the next race is due."""

STOOD_ON = {
    "dagster._grpc.server:DagsterApiServer.__init__": (
        "self._mp_ctx = multiprocessing.get_context(",
        "self._execution_lock = threading.Lock()",
        "self._executions: dict[str, tuple[multiprocessing.Process, InstanceRef]] = {}",
        "self._termination_events: dict[",
        "self._shutdown_once_executions_finish_event = threading.Event()",
    ),
    "dagster._grpc.server:DagsterApiServer.StartRun": (
        "if self._shutdown_once_executions_finish_event.is_set():",
        "self._mp_ctx.Queue()",
        "self._mp_ctx.Event()",
        "self._mp_ctx.Process(",
        "self._termination_events[run_id] = termination_event",
    ),
    "dagster._grpc.server:DagsterApiServer._check_for_orphaned_runs": (
        "with self._execution_lock:",
        "if not process.is_alive():",
        "instance.report_run_failed(run)",
        "self._clear_run(run_id)",
    ),
    "dagster._grpc.server:DagsterApiServer.cleanup": ("self._shutdown_once_executions_finish_event.set()",),
    "dagster._grpc.server:DagsterGrpcServer.serve": ("self._api_servicer.cleanup()",),
    "dagster._cli.api:grpc_command.callback": (
        "from dagster._grpc.server import DagsterApiServer",
        "DagsterApiServer(",
        "except KeyboardInterrupt:",
    ),
    "dagster._grpc.impl:_run_in_subprocess": ("start_termination_thread(termination_event, done_event)",),
}
"""Lines of Dagster's source that the code server below relies on."""

_AWAY = (SQLAlchemyError, dg.DagsterError, click.ClickException)
"""What a database that cannot be asked comes to; our storage raises the last."""

_log = logging.getLogger("dagster.code_server")
_coordinator_log = logging.getLogger("dagster.run_coordinator.live_lane")


class LiveLaneRunCoordinator(dg.QueuedRunCoordinator):
    """`QueuedRunCoordinator` past which runs tagged `LANE_TAG: LIVE` go straight to the launcher.

    A live run that cannot be launched has failed, with the reason in its events, and the error is raised: it is not
    tried again, because the next poll of its races comes anyway. Config: that of `QueuedRunCoordinator`.
    """

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        if run.tags.get(LANE_TAG) == LIVE:
            launch_run = getattr(self._instance, "launch_run", None)
            if launch_run is not None:
                launch_run(run.run_id, context.workspace)
                return self._instance.get_run_by_id(run.run_id) or run
            _coordinator_log.warning("This Dagster has no DagsterInstance.launch_run: live runs wait in the queue")
        self._instance.add_run_tags(run.run_id, {LANE_TAG: QUEUED})
        return super().submit_run(context)


class _Popen(popen_forkserver.Popen):
    """A run worker forked by the fork server. It outlives that server, which the stock class takes for its end."""

    def __init__(self, process_obj: BaseProcess) -> None:
        super().__init__(process_obj)
        self._handle: int | None = None
        with suppress(AttributeError, ProcessLookupError):  # a system without them, or it has ended already
            self._handle = os.pidfd_open(self.pid)
            util.Finalize(self, os.close, (self._handle,))

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        code = super().poll(flag)
        if code == 255 and self._handle is not None and not connection.wait([self._handle], 0):
            code = self.returncode = None
        return code


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802  the name multiprocessing calls
        try:
            return _Popen(process_obj)
        except (OSError, EOFError) as error:
            _log.warning("The fork server of run workers fails (%r): this run starts in a new interpreter", error)
            return popen_spawn_posix.Popen(process_obj)


class _Event(synchronize.Event):
    """Tells a run to end. Setting the stock one waits until the run has heard, which one that hangs never does."""

    def set(self) -> None:
        threading.Thread(target=super().set, daemon=True).start()


class _Context(ForkServerContext):
    Process = _Process

    def Event(self) -> _Event:  # noqa: N802  the name multiprocessing has
        return _Event(ctx=self.get_context())


def build_server(stock: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A `DagsterApiServer` with run workers from the fork server, and an end within seconds."""
    server = stock(*args, **options)
    server._mp_ctx = _Context()
    server._check_for_orphaned_runs = partial(_look_for_ended, server._check_for_orphaned_runs)
    stock_cleanup = server.cleanup

    def cleanup() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        end_runs(server)
        last_resort = threading.Timer(EXIT_WITHIN_S, _exit_at_once)
        last_resort.daemon = True
        last_resort.start()
        stock_cleanup()

    server.cleanup = cleanup
    return server


def _look_for_ended(stock_check: Callable[[], None]) -> None:
    """An error would end the thread that looks for as long as the server lives: no run that dies would be noticed."""
    try:
        stock_check()
    except _AWAY as error:
        _log.warning("Runs that ended could not be recorded, and are looked at again: %s", error)


def end_runs(
    server: Any, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Accept no further run, let those under way finish, cancel the rest, kill what is left of them."""
    server._shutdown_once_executions_finish_event.set()
    steps: list[tuple[float, Callable[[Any], None] | None]] = [
        (FINISH_WITHIN_S, _cancel_runs),
        (CANCEL_WITHIN_S, _kill_runs),
        (CLEAR_WITHIN_S, None),
    ]
    for within_s, otherwise in steps:
        give_up_at = clock() + within_s
        while server._executions and clock() < give_up_at:
            server._check_for_orphaned_runs()
            sleep(0.05)
        if server._executions and otherwise is not None:
            otherwise(server)


def _cancel_runs(server: Any) -> None:
    for run_id, (_process, instance_ref) in list(server._executions.items()):
        try:
            with dg.DagsterInstance.from_ref(instance_ref) as instance:
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_canceling(run, message="The code server is stopping.")
        except _AWAY as error:
            _log.warning("Run %s is cancelled without a word in its events: %s", run_id, error)
        event = server._termination_events.get(run_id)
        if event is not None:
            event.set()


def _kill_runs(server: Any) -> None:
    for run_id, (process, _instance_ref) in list(server._executions.items()):
        _log.warning("Run %s does not end and is killed", run_id)
        process.kill()


def _exit_at_once() -> NoReturn:
    shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
    os._exit(0)


def find_changes() -> list[str]:
    """What Dagster no longer has of the lines in `STOOD_ON`, one sentence each."""
    changes = []
    for place, lines in STOOD_ON.items():
        module, _, path = place.partition(":")
        try:
            found: Any = import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
            source = inspect.getsource(found)
        except (ImportError, AttributeError, OSError, TypeError) as error:
            changes.append(f"{place} cannot be read: {error}")
        else:
            changes += [f"{place} no longer says `{line}`" for line in lines if line not in source]
    return changes


def _serve_stock(arguments: Sequence[str], reason: str) -> NoReturn:
    _log.warning(reason)
    os.execv(sys.executable, [sys.executable, "-m", "dagster", "api", "grpc", *arguments])  # noqa: S606


def serve(arguments: Sequence[str], preload: Sequence[str] = PRELOAD) -> NoReturn:
    """Run `dagster api grpc` with `arguments`, and with run workers forked from a server that imports `preload`."""
    changes = find_changes()
    if changes:
        _serve_stock(arguments, f"Dagster has changed, so run workers start in new interpreters: {'; '.join(changes)}")
    # Now, so that its imports go on beside those of the code server.
    forkserver.set_forkserver_preload(list(preload))
    try:
        forkserver.ensure_running()
    except OSError as error:  # such as a TMPDIR too long for the path of a socket
        _serve_stock(
            arguments, f"The fork server cannot start, so run workers start in new interpreters: {error} (see TMPDIR)"
        )
    os.environ["DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD"] = "1"
    server = import_module("dagster._grpc.server")
    vars(server)["DagsterApiServer"] = partial(build_server, server.DagsterApiServer)
    import_module("dagster._cli.api").grpc_command.main(list(arguments), standalone_mode=False)
    # All is closed by now; the interpreter would take another second or two to take itself apart.
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    # Each worker would run this module again, to find what it was sent in there: let that be in the imported one.
    vars(sys.modules["__main__"]).update(__spec__=None, __file__=None)
    import_module("raceday_dagster.dagster_plugins.launcher").serve(
        ["--module-name", MODULE, "--location-name", LOCATION, *sys.argv[1:]]
    )
