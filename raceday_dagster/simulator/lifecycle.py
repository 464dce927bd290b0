"""The life of a race: open, closed, interim, final, or abandoned, as a function of the instant.

Belongs here: the stage at an instant and the moments between stages. Does not belong here: who won, or money.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from raceday_dagster.simulator.raceday import Race

OPEN, CLOSED, INTERIM, FINAL, ABANDONED = "Open", "Closed", "Interim", "Final", "Abandoned"

_BETTING_ENDS_AFTER = timedelta(seconds=4)


def closes_at(race: Race) -> datetime:
    """Betting ends a few seconds after the real start, which is later than the advertised one."""
    return race.starts_at + race.delay + _BETTING_ENDS_AFTER


def settled_at(race: Race, status: str) -> datetime:
    """When the race becomes interim or final."""
    return closes_at(race) + race.interim_after if status == INTERIM else race.starts_at + race.final_after


def find_status(race: Race, instant: datetime) -> str:
    """The status the API would give, in its own spelling."""
    if race.abandoned_at is not None and instant >= race.abandoned_at:
        return ABANDONED
    if instant < closes_at(race):
        return OPEN
    if instant < settled_at(race, INTERIM):
        return CLOSED
    return INTERIM if instant < settled_at(race, FINAL) else FINAL


def betting_instant(race: Race, instant: datetime) -> datetime:
    """The instant up to which money has come in: now, or the moment betting ended."""
    return min(instant, race.abandoned_at or closes_at(race))
