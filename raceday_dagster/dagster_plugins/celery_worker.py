"""`python -m raceday_dagster.dagster_plugins.celery_worker NAME RUNS`: takes runs from the broker of a cluster.

It executes nothing itself: each run is a process of this machine's run server, as it is where there is one machine, and
a thread here waits for its end. DAGSTER_HOME names the instance, and the folder of the run server's socket.
"""

import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import dagster as dg
from celery import signals
from celery.worker.control import control_command
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME

from raceday_dagster.dagster_plugins.celery_launcher import INTERRUPT, ClusterRunLauncher
from raceday_dagster.dagster_plugins.forked_process import (
    SOCKET,
    ProcessIdentity,
    RunRequest,
    ask,
    connect,
)
from raceday_dagster.dagster_plugins.machines import BEAT_EVERY_S, MACHINE_TAG, beat, leave
from raceday_dagster.dagster_plugins.run_process import DATABASE_ERRORS, record_end, warn

RUN_SERVER_WITHIN_S = 20.0
"""How long a run waits for a run server that is being started again; less than `start_timeout_seconds`."""
RECORD_WITHIN_S = 3.0
"""How long the run server has to record a death: it sees that of a child at once, unless it has died itself."""
_PAUSE_S = 0.2
_LAST_BEAT_WITHIN_S = 1.0
WAITING = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED)


class RunTaker:
    """Executes the runs that the broker hands to this machine.

    Args:
        instance: Dagster's; used by several threads.
        machine: The name of this machine.
        socket_path: Where its run server listens.
    """

    def __init__(self, instance: dg.DagsterInstance, machine: str, socket_path: Path) -> None:
        self._instance = instance
        self._machine = machine
        self._socket_path = socket_path
        self._processes: dict[str, ProcessIdentity] = {}

    def take(self, run_id: str) -> None:
        """Execute a run, and see that it has an end. What cannot be recorded is found by Dagster's run monitoring."""
        try:
            run = self._instance.get_run_by_id(run_id)
            if run is None or run.status not in WAITING:  # nobody took it in time, or it was delivered twice
                warn("run_not_taken", run_id=run_id, status=run.status.value if run else "deleted")
                return
            self._instance.add_run_tags(run_id, {MACHINE_TAG: self._machine})
            try:
                process = self._fork(run_id)
            except OSError as error:
                record_end(self._instance, run_id, f"Machine {self._machine} could not begin this run: {error}")
                return
            self._processes[run_id] = process
            try:
                _wait_for(process)
            finally:
                del self._processes[run_id]
            self._see_its_end(run_id)
        except DATABASE_ERRORS as error:
            warn("run_left_to_monitoring", run_id=run_id, error=str(error))

    def interrupt(self, run_id: str) -> bool:
        """Whether the run was at work here and has been interrupted."""
        process = self._processes.get(run_id)
        return process is not None and process.send_signal(signal.SIGINT)

    def _fork(self, run_id: str) -> ProcessIdentity:
        """Raises `OSError`: there is no run server, or it does not say whether there is a process."""
        give_up_at = time.monotonic() + RUN_SERVER_WITHIN_S
        while True:
            try:
                connection = connect(self._socket_path)
                break
            except OSError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(_PAUSE_S)
        with connection:
            return ask(connection, RunRequest(run_id=run_id))

    def _see_its_end(self, run_id: str) -> None:
        give_up_at = time.monotonic() + RECORD_WITHIN_S
        while (run := self._instance.get_run_by_id(run_id)) is not None and not run.is_finished:
            if time.monotonic() > give_up_at:
                record_end(self._instance, run_id, f"The process of this run on machine {self._machine} is gone.")
                return
            time.sleep(_PAUSE_S)


def _wait_for(process: ProcessIdentity) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.is_alive():  # and not a later one with its pid
            select.select([handle], [], [])
    finally:
        os.close(handle)


class Heartbeat(threading.Thread):
    """Says every two seconds that this machine lives, until `stop`, which says that it leaves."""

    def __init__(self, instance: dg.DagsterInstance, machine: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._instance = instance
        self._machine = machine
        self._is_leaving = threading.Event()

    def run(self) -> None:
        is_leaving = False
        while not is_leaving:
            try:
                beat(self._instance, self._machine)
            except DATABASE_ERRORS as error:
                warn("heartbeat_not_written", machine=self._machine, error=str(error))
            is_leaving = self._is_leaving.wait(BEAT_EVERY_S)

    def stop(self) -> None:
        """Not before the last beat has been written: it would count."""
        self._is_leaving.set()
        if self.is_alive():
            self.join(_LAST_BEAT_WITHIN_S)
        try:
            leave(self._instance, self._machine)
        except DATABASE_ERRORS as error:
            warn("heartbeat_not_written", machine=self._machine, error=str(error))


def main() -> None:
    """Take runs, so many at once, until SIGTERM."""
    machine, runs = sys.argv[1:]
    home = Path(os.environ["DAGSTER_HOME"]).resolve()
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, ClusterRunLauncher):
            sys.exit(f"{home}/dagster.yaml names no ClusterRunLauncher")
        taker = RunTaker(instance, machine, home / SOCKET)
        app = launcher.celery
        app.conf.update(worker_disable_prefetch=True, worker_hijack_root_logger=False)

        @app.task(name=TASK_EXECUTE_JOB_NAME)  # type: ignore[untyped-decorator]
        def execute_job(execute_job_args_packed: Any) -> None:
            taker.take(unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs).run_id)

        @control_command(name=INTERRUPT, args=[("run_id", str)])  # type: ignore[untyped-decorator]
        def interrupt_run(_state: object, run_id: str) -> dict[str, bool]:
            return {"interrupted": taker.interrupt(run_id)}

        heartbeat = Heartbeat(instance, machine)

        def begin(**_: object) -> None:
            heartbeat.start()
            click.echo(f"machine {machine} takes {runs} runs at once", err=True)

        signals.worker_ready.connect(begin, weak=False)
        signals.worker_shutting_down.connect(lambda **_: heartbeat.stop(), weak=False)
        options = ("--pool=threads", f"--concurrency={runs}", f"--hostname=raceday@{machine}", "--loglevel=WARNING")
        app.worker_main(["--quiet", "worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])


if __name__ == "__main__":
    main()
