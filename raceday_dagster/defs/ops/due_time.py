"""A batch that was launched a moment early waits here until its races fall due, so that the launch costs no time."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

SHORTEST_PAUSE_S = 0.001
LONGEST_WAIT_S = 5.0
"""Short enough for a run that is asked to end while it waits."""


def parse_due_at(text: str) -> datetime | None:
    """The instant of a run's config; ``None`` without one.

    Raises:
        dagster.Failure: What was given is no instant with a zone.
    """
    if not text:
        return None
    try:
        due_at = datetime.fromisoformat(text)
    except ValueError:
        due_at = None
    if due_at is None or due_at.tzinfo is None:
        raise dg.Failure(
            f"due_at must be an instant with its zone like 2026-01-31T01:23:45+00:00, not {text!r}",
            allow_retries=False,
        )
    return due_at.astimezone(UTC)


def wait_until(
    due_at: datetime,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, int | str]:
    """Sleeps until an instant, never longer than ``LONGEST_WAIT_S``; returns what to say of it as metadata."""
    waited_s = 0.0
    # Once is not always enough: the clock of instants and the clock that sleeps by are two.
    while (early_s := (due_at - clock()).total_seconds()) > 0 and waited_s < LONGEST_WAIT_S:
        pause_s = min(max(early_s, SHORTEST_PAUSE_S), LONGEST_WAIT_S - waited_s)
        sleep(pause_s)
        waited_s += pause_s
    behind_s = max(0.0, (clock() - due_at).total_seconds())
    return {
        "due_at": due_at.isoformat(),
        "waited_ms": round(1000 * waited_s),
        "behind_due_ms": round(1000 * behind_s),
    }
