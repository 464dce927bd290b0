"""Waiting in a test for what another thread or process does: for a bounded time, and with a failure that names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 120.0
"""Long enough for a machine under load; nothing that works comes near it."""
_BETWEEN_LOOKS_S = 0.02
_LONGEST_PAUSE_S = 0.5

Found = TypeVar("Found")


def wait_for(
    find: Callable[[], Found | None], within_s: float = PATIENCE_S, explain: Callable[[], object] | None = None
) -> Found:
    """Ask ``find`` again and again until its answer is true, and return that answer.

    After a look that took its time it pauses four times as long: reading a page or a database costs those it waits for.

    Raises:
        AssertionError: ``within_s`` seconds have passed; it holds what ``explain`` says by then, or the last answer.
    """
    began_s = time.monotonic()
    while True:
        asked_s = time.monotonic()
        if found := find():
            return found
        answered_s = time.monotonic()
        if answered_s > began_s + within_s:
            raise AssertionError(f"nothing came within {within_s:g} s: {explain() if explain else found}")
        time.sleep(_BETWEEN_LOOKS_S)
        while time.monotonic() < answered_s + min(4 * (answered_s - asked_s), _LONGEST_PAUSE_S):
            time.sleep(_BETWEEN_LOOKS_S)
