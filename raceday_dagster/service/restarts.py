"""Whether and when a process that died is started again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW_S = 60.0
MOST_DEATHS = 5
FIRST_DELAY_S = 0.5


def choose_restart_delay_s(deaths_s: Sequence[float], now_s: float) -> float | None:
    """Seconds to wait before the next start: 0.5, 1, 2, 4, doubled with each death of the last minute.

    Args:
        deaths_s: Instants of all deaths so far on a monotonic clock, the newest (``now_s``) included.
        now_s: The same clock.

    Returns:
        ``None`` after five deaths within a minute: it does not come up by itself.
    """
    recent = sum(now_s - death_s < WINDOW_S for death_s in deaths_s)
    if recent >= MOST_DEATHS:
        return None
    return float(FIRST_DELAY_S * 2 ** max(recent - 1, 0))
