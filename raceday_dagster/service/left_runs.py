"""Looking after what a code server that died has left: at once, and again until runs and processes are gone.

Each look has a thread of its own, because a database that hangs must hold up neither a start nor a stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.service.left_processes import find_left_processes, kill
from raceday_dagster.service.lost_runs import LostRun, end_lost_runs, find_lost_runs

LOOK_WITHIN_S = 3.0
LAST_LOOK_WITHIN_S = 0.8
LOOK_AGAIN_S = 1.0
FINISH_WITHIN_S = 15.0
"""For a run that goes on without its code server: a batch takes less, and one that hangs holds the races it claimed."""
_AWAY = (DBAPIError, StorageError)


class LeftRuns:
    """Ends what dead code servers left.

    Args:
        instance: Dagster's.
        home: The service's ``RACEDAY_HOME``.
        say: Prints one line.
    """

    def __init__(self, instance: dg.DagsterInstance, home: Path, say: Callable[[str], None]) -> None:
        self._instance = instance
        self._home = home
        self._say = say
        self._look = _Look()

    def look(self, *, last: bool = False) -> None:
        """Call it while no code server runs: every unfinished run is one of a dead one then.

        Returns when all are known and those without a process are ended, or after a few seconds; what the database
        says later is not listened to, because a run may belong to the next code server by then. Runs with a process
        are followed meanwhile, and have some time to end by themselves, but none at the ``last`` look.
        """
        self._look.over.set()
        self._look = look = _Look()
        finish_within_s = 0.0 if last else FINISH_WITHIN_S
        threading.Thread(target=self._run, args=(look, finish_within_s), name="left-runs", daemon=True).start()
        if last:
            look.done.wait(LAST_LOOK_WITHIN_S)
        if not look.seen.wait(0 if last else LOOK_WITHIN_S):
            look.over.set()
            self._say_away()

    def close(self) -> None:
        """Stop looking."""
        self._look.over.set()

    def _run(self, look: _Look, finish_within_s: float) -> None:
        try:
            self._follow(look, find_lost_runs(self._instance), finish_within_s)
        except _AWAY:
            if not look.over.is_set():
                self._say_away()
        finally:
            look.seen.set()
            look.done.set()

    def _follow(self, look: _Look, runs: list[LostRun], finish_within_s: float) -> None:
        kill_at_s = time.monotonic() + finish_within_s
        while not look.over.is_set():
            runs = self._end(runs)
            look.seen.set()
            left = find_left_processes(self._home)
            if not runs and not left:
                return
            if left and time.monotonic() >= kill_at_s:
                kill(left)
                self._say(f"runs went on without their code server: killed their processes ({len(left)})")
            look.over.wait(LOOK_AGAIN_S if finish_within_s else 0.1)

    def _end(self, runs: list[LostRun]) -> list[LostRun]:
        try:
            return end_lost_runs(self._instance, runs, self._say)
        except _AWAY:
            return runs  # it comes back, or the service ends

    def _say_away(self) -> None:
        # Dagster's own time-out ends them later; its database being away is no reason not to start.
        self._say("the runs that a dead code server left could not be looked at: Dagster's database is away")


class _Look:
    def __init__(self) -> None:
        self.seen, self.done, self.over = threading.Event(), threading.Event(), threading.Event()
