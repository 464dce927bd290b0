"""Where a running batch stands: the one thing the steps of a run count together."""

import threading
import time
from collections.abc import Callable

from raceday_dagster.racing.outcomes import BatchProgress, Status


class ProgressBoard:
    """Counts the races of one run; safe to call from several steps at once.

    Where ``begin`` was not called (steps in processes of their own), nothing is reported: there is no total to measure
    against.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._total = 0
        self._began_s = 0.0
        self._processing = 0
        self._ended: dict[Status, int] = {"success": 0, "skipped": 0, "failed": 0}

    def begin(self, total: int) -> None:
        """The batch has ``total`` races and begins now."""
        with self._lock:
            self._total, self._began_s = total, self._monotonic()

    def start_race(self) -> None:
        """One more race is in flight."""
        with self._lock:
            self._processing += 1

    def end_race(self, status: Status, report: Callable[[BatchProgress], None]) -> None:
        """One race has ended; reports where the batch stands now, one race after the other."""
        with self._lock:
            self._processing -= 1
            self._ended[status] += 1
            if not self._total:
                return
            completed = sum(self._ended.values())
            elapsed_s = self._monotonic() - self._began_s
            report(
                BatchProgress(
                    total=self._total,
                    completed=completed,
                    successful=self._ended["success"],
                    skipped=self._ended["skipped"],
                    failed=self._ended["failed"],
                    processing=self._processing,
                    pending=self._total - completed - self._processing,
                    eta_ms=round(1000 * elapsed_s / completed * (self._total - completed)),
                )
            )
