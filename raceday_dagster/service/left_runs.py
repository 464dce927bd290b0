"""Looking after the runs of a code server that died: at once, and again until their processes are gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import dagster as dg
from sqlalchemy.exc import DBAPIError

from raceday_dagster.service.lost_runs import LostRun, end_lost_runs, find_lost_runs
from raceday_dagster.storage import StorageError

LOOK_AGAIN_S = 5.0


class LeftRuns:
    """Ends what dead code servers left, without holding up the start of the next.

    Args:
        instance: Dagster's.
        say: Prints one line.
    """

    def __init__(self, instance: dg.DagsterInstance, say: Callable[[str], None]) -> None:
        self._instance = instance
        self._say = say
        self._closing = threading.Event()
        self._followers: list[threading.Thread] = []

    def look(self) -> None:
        """Call it while no code server runs: every unfinished run is one of a dead one then."""
        try:
            working = end_lost_runs(self._instance, find_lost_runs(self._instance), self._say)
        except (DBAPIError, StorageError):
            # Dagster's own time-out ends them later; its database being away is no reason not to start.
            self._say("the runs that a dead code server left could not be looked at: Dagster's database is away")
            return
        if working:
            follower = threading.Thread(target=self._follow, args=(working,), name="left-runs", daemon=True)
            self._followers.append(follower)
            follower.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        for follower in self._followers:
            follower.join(1)

    def _follow(self, working: list[LostRun]) -> None:
        while working and not self._closing.wait(LOOK_AGAIN_S):
            try:
                working = end_lost_runs(self._instance, working, self._say)
            except (DBAPIError, StorageError):
                continue  # it comes back, or the service ends
