"""Whether the service does its work, judged from what was read. Pure; the reading is in ``health_reading``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from raceday_dagster.racing.cadence import LAST_MINUTES, LOOK_BACK, choose_interval
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.service.echo import shorten
from raceday_dagster.service.instance_lock import Holder
from raceday_dagster.store.queries import LiveRace

LONGEST_SILENCE = timedelta(seconds=150)
"""A daemon writes its heartbeat every 30 s, but between its rounds only, and the scheduler has one a minute: two and a
half of those."""
POLL_TOLERANCE = timedelta(seconds=15)
WARM_UP = timedelta(seconds=60)
"""Within it a service that has just started may not have polled everything yet, nor even begun."""
DAY_GRACE = timedelta(minutes=15)
"""From the turn of the day until its list is expected."""
SENSOR = "due_races"
HELPERS = (
    "first_baseline",
    "daily_baseline_schedule",
    "meeting_status_schedule",
    "evening_backfill_schedule",
    "maintenance_schedule",
)
"""The other sensor and the schedules: without one of them the races of today are polled nevertheless."""
_NAMED_RACES = 5


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    verdict: Literal["ok", "warning", "FAIL"]
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<7} {self.text}"


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings do not count."""
    return all(check.verdict != "FAIL" for check in checks)


def judge_service(holder: Holder | None) -> Check:
    """Whether a ``raceday up`` runs on Dagster's database."""
    if holder is None:
        return Check("FAIL", "service: no `raceday up` runs on this Dagster database; start one")
    return Check("ok", f"service: {holder}")


def is_warming_up(up_since: datetime | None, now: datetime) -> bool:
    """Whether the service has just started; ``up_since`` is ``None`` if it is not up or that is not known."""
    return up_since is not None and now - up_since < WARM_UP


def judge_heartbeats(heartbeats: Mapping[str, datetime | None], now: datetime, up_since: datetime | None) -> Check:
    """Whether every daemon gave a sign of life lately."""
    silent = [
        f"{name} (never seen)" if beat is None else f"{name} ({describe_age(now - beat)} ago)"
        for name, beat in sorted(heartbeats.items())
        if beat is None or now - beat > LONGEST_SILENCE
    ]
    if silent and is_warming_up(up_since, now):
        return Check("warning", f"daemon: the service has just started; no heartbeat yet of {', '.join(silent)}")
    if silent:
        return Check(
            "FAIL", f"daemon: no heartbeat of {', '.join(silent)}; look at logs/daemon.log, restart the service"
        )
    oldest = max((now - beat for beat in heartbeats.values() if beat is not None), default=timedelta(0))
    return Check("ok", f"daemon: {len(heartbeats)} daemons, oldest heartbeat {describe_age(oldest)} ago")


def judge_automation(statuses: Mapping[str, str], now: datetime, up_since: datetime | None) -> Iterator[Check]:
    """Whether the sensor that polls is switched on, and the other sensor and the schedules are.

    Args:
        statuses: Dagster's words for them, by name; without those that were never seen.
        now: An aware instant.
        up_since: When the service started.
    """
    status = statuses.get(SENSOR)
    if status == "STOPPED":
        yield Check("FAIL", f"sensor: {SENSOR} is switched off; switch it on in the UI, under Automation")
    elif status is None and is_warming_up(up_since, now):
        yield Check("warning", f"sensor: the service has just started; {SENSOR} has not run yet")
    elif status is None:
        yield Check("FAIL", f"sensor: {SENSOR} has never run; look at logs/daemon.log")
    else:
        yield Check("ok", f"sensor: {SENSOR} is on")
    off = [name for name in HELPERS if statuses.get(name) == "STOPPED"]
    unseen = [name for name in HELPERS if name not in statuses]
    if off:
        yield Check("warning", f"automation: switched off: {', '.join(off)}; switch on in the UI, under Automation")
    if unseen and status is not None:
        yield Check("warning", f"automation: never seen: {', '.join(unseen)}; look at logs/daemon.log")
    if not off and not unseen:
        yield Check("ok", f"automation: {', '.join(HELPERS)} are on")


def judge_day(is_listed: bool, now: datetime, up_since: datetime | None) -> Check:
    """Whether the list of the racing day under way is stored: without it there is nothing to poll."""
    day = choose_current_racing_day(now)
    if is_listed:
        return Check("ok", f"day: {day} is loaded")
    if is_warming_up(up_since, now):
        return Check("warning", f"day: the service has just started; {day} is not loaded yet")
    if choose_current_racing_day(now - DAY_GRACE) != day:
        return Check("warning", f"day: {day} has just begun and is not loaded yet")
    return Check(
        "FAIL",
        f"day: {day} is not loaded, so its races are not polled; look at the newest run of daily_baseline in the UI "
        "(tried again every minute)",
    )


def judge_polls(races: Sequence[LiveRace], now: datetime, up_since: datetime | None) -> Iterator[Check]:
    """Whether each live race was polled on its cadence, and which races should long have been over.

    Args:
        races: Live races, the earliest start first.
        now: The clock that wrote the ledger.
        up_since: When the service started.
    """
    live = [race for race in races if now - race.start_time < LOOK_BACK]
    overdue = [race for race in races if now - race.start_time >= LOOK_BACK]
    late = [race for race in live if is_late(race, now)]
    if late and is_warming_up(up_since, now):
        yield Check("warning", f"polls: the service has just started; {name_races(late, now)}")
    elif late:
        error = next((f"; the newest error: {shorten(race.error)}" for race in late if race.error), "")
        log = "code-server" if error else "daemon"
        yield Check("FAIL", f"polls: {name_races(late, now)}{error}; look at the newest runs and at logs/{log}.log")
    else:
        yield Check("ok", f"polls: {describe_live(live, now)}")
    if overdue:
        yield Check("warning", f"not over two hours after the start, left to the backfill: {name_races(overdue, now)}")


def is_late(race: LiveRace, now: datetime) -> bool:
    """Whether the newest poll that did not fail is older than the cadence at that time and the tolerance allow."""
    if race.polled_at is None:
        return True
    # A race that has just entered its last five minutes was due at the slower cadence until then.
    return now - race.polled_at > choose_interval(race.start_time - race.polled_at) + POLL_TOLERANCE


def name_races(races: Sequence[LiveRace], now: datetime) -> str:
    """The first few races and the age of their last poll that did not fail."""
    named = [
        f"{race.title} (no good poll yet)"
        if race.polled_at is None
        else f"{race.title} (last good poll {describe_age(now - race.polled_at)} ago)"
        for race in races[:_NAMED_RACES]
    ]
    more = len(races) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def describe_live(live: Sequence[LiveRace], now: datetime) -> str:
    """How many races are live, and the oldest last good poll among them."""
    if not live:
        return f"no race is live (in its last {LAST_MINUTES // timedelta(minutes=1)} minutes, or started and not over)"
    oldest = max(now - race.polled_at for race in live if race.polled_at is not None)
    return f"{len(live)} live races, oldest good poll {describe_age(oldest)} ago"


def describe_age(age: timedelta) -> str:
    """``12 s``, ``7 min`` or ``3 h``."""
    seconds = max(round(age.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
