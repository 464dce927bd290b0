"""How the wire writes an instant with fractions of a second.

Belongs here: that one text form. Does not belong here: the clock, or seconds since the epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime


def write_instant(instant: datetime) -> str:
    """ISO with Z and nine fractional digits, as the API has it."""
    at = instant.astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}{at.microsecond * 7919 % 997 + 1:03d}Z"
