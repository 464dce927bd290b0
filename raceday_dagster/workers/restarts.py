"""How fast lost workers are replaced: the first at once, the next ones slower, and never more than so many a minute."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0


class RestartBudget:
    """Restarts of the last minute. Pure; the caller brings a monotonic clock and a lock."""

    def __init__(self, per_minute: int) -> None:
        self.total = 0
        self._per_minute = per_minute
        self._starts_s: deque[float] = deque(maxlen=per_minute)

    def reserve(self, now_s: float) -> float:
        """Takes one restart out of the budget.

        Returns:
            Seconds until it may begin; more than ``LONGEST_DELAY_S`` when the budget of this minute is used up.
        """
        recent = sum(start_s > now_s - WINDOW_S for start_s in self._starts_s)
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (recent - 1)) if recent else 0.0
        if len(self._starts_s) == self._per_minute:
            delay_s = max(delay_s, self._starts_s[0] + WINDOW_S - now_s)
        self._starts_s.append(now_s + delay_s)
        self.total += 1
        return delay_s
