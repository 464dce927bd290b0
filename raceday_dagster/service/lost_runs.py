"""Runs whose run server has died: marked as failed once their process is gone, which nobody else would notice at once.

A run outlives its run server and ends by itself. Runs that no run server launched are no concern of this file: a
``dagster job execute`` has a process that nobody here knows, and a run caught in the midst of its launch is ended by
Dagster's start time-out.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial

import dagster as dg

from raceday_dagster.dagster_plugins.run_launcher import RunWorker, find_run_worker
from raceday_dagster.dagster_plugins.run_process import record_end
from raceday_dagster.service.dagster_instance import ask_within

ASK_WITHIN_S = 3.0
LAST_ASK_WITHIN_S = 0.4
LOOK_EVERY_S = 1.0
NEVER = float("inf")
FINISH_WITHIN_S = 15.0
"""For what a killed service left: a batch takes less, and a run that never ends holds the races it claimed."""
UNFINISHED = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


class LostRuns:
    """Follows runs without a run server until they have ended."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        say: Callable[[str], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instance = instance
        self._say = say
        self._monotonic = monotonic
        self._runs: dict[str, tuple[RunWorker, float]] = {}
        """Their processes, and when each is killed on the monotonic clock."""
        self._look_at_s = 0.0

    def find(self, *, finish_within_s: float = NEVER) -> None:
        """Begins to follow every unfinished run, whose process is killed after a while. Call it while no run server
        runs."""
        workers = ask_within(ASK_WITHIN_S, self._read_workers)
        if workers is None:  # no reason not to start: Dagster's run monitoring finds them later
            self._say("the runs that a dead run server left could not be looked at: Dagster's database does not answer")
            return
        kill_at_s = self._monotonic() + finish_within_s
        self._runs = {run_id: (worker, kill_at_s) for run_id, worker in workers.items()} | self._runs
        self.look()

    def look(self) -> None:
        """Marks those whose process is gone, once a second; to be called again and again while the database answers."""
        now_s = self._monotonic()
        if not self._runs or now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        self._kill([worker for worker, kill_at_s in self._runs.values() if now_s >= kill_at_s])
        self._mark([run_id for run_id, (worker, _) in self._runs.items() if not worker.is_alive()], ASK_WITHIN_S)

    def end(self) -> None:
        """Kills and marks what is left, now that the service ends and its run server has ended."""
        workers = {run_id: worker for run_id, (worker, _) in self._runs.items()}
        workers |= ask_within(LAST_ASK_WITHIN_S, self._read_workers) or {}
        self._kill(workers.values())
        self._mark(list(workers), LAST_ASK_WITHIN_S)

    def _kill(self, workers: Iterable[RunWorker]) -> None:
        if killed := sum(worker.send_signal(signal.SIGKILL) for worker in workers):
            self._say(f"runs went on without their run server: killed their processes ({killed})")

    def _mark(self, run_ids: Collection[str], within_s: float) -> None:
        if not run_ids:
            return
        if ask_within(within_s, partial(self._report, run_ids)):
            self._runs = {run_id: lost for run_id, lost in self._runs.items() if run_id not in run_ids}

    def _read_workers(self) -> dict[str, RunWorker]:
        runs = self._instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))
        workers = {run.run_id: find_run_worker(run) for run in runs}
        # Whether a process of another machine lives cannot be seen from here.
        return {run_id: worker for run_id, worker in workers.items() if worker is not None and worker.is_here()}

    def _report(self, run_ids: Collection[str]) -> bool:
        reason = "The process of this run is gone, and so is the run server that had started it."
        for run_id in run_ids:
            if run := record_end(self._instance, run_id, reason):  # it did not end by itself meanwhile
                self._say(f"run {run.run_id} ({run.job_name}) lost its process with its run server; marked as ended")
        return True
