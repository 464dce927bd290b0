"""Whether the service does its work, judged from what was read. Pure; the reading is in ``health_reading``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from raceday_dagster.racing.polling import LAST_MINUTES, LOOK_BACK, choose_interval
from raceday_dagster.service.instance_lock import Holder
from raceday_dagster.write.live_polls import LiveRace

LONGEST_SILENCE = timedelta(seconds=75)
"""A daemon writes its heartbeat every 30 s: two and a half of them."""
POLL_TOLERANCE = timedelta(seconds=15)
WARM_UP = timedelta(seconds=60)
"""Within it a service that has just started may not have polled everything yet."""
SENSOR = "due_races"
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


def judge_heartbeats(heartbeats: Mapping[str, datetime | None], now: datetime) -> Check:
    """Whether every daemon gave a sign of life lately."""
    silent = [
        f"{name} (never seen)" if beat is None else f"{name} ({describe_age(now - beat)} ago)"
        for name, beat in sorted(heartbeats.items())
        if beat is None or now - beat > LONGEST_SILENCE
    ]
    if silent:
        return Check(
            "FAIL", f"daemon: no heartbeat of {', '.join(silent)}; look at logs/daemon.log, restart the service"
        )
    oldest = max((now - beat for beat in heartbeats.values() if beat is not None), default=timedelta(0))
    return Check("ok", f"daemon: {len(heartbeats)} daemons, oldest heartbeat {describe_age(oldest)} ago")


def judge_sensor(status: str | None) -> Check:
    """Whether the sensor that polls is switched on; ``status`` is Dagster's word for it."""
    if status == "STOPPED":
        return Check("FAIL", f"sensor: {SENSOR} is switched off; switch it on in the UI, under Automation")
    if status is None:
        return Check("FAIL", f"sensor: {SENSOR} has never run; look at logs/daemon.log")
    return Check("ok", f"sensor: {SENSOR} is on")


def judge_polls(races: Sequence[LiveRace], now: datetime, up_since: datetime | None) -> Iterator[Check]:
    """Whether each live race was polled on its cadence, and which races should long have been over.

    Args:
        races: Live races, the earliest start first.
        now: The clock that wrote the ledger.
        up_since: When the service started; ``None`` if it is not up or that is not known.
    """
    live = [race for race in races if now - race.start_time < LOOK_BACK]
    overdue = [race for race in races if now - race.start_time >= LOOK_BACK]
    late = [race for race in live if is_late(race, now)]
    warming_up = up_since is not None and now - up_since < WARM_UP
    if late and warming_up:
        yield Check("warning", f"polls: the service has just started; {name_races(late, now)} not polled yet")
    elif late:
        yield Check("FAIL", f"polls: {name_races(late, now)}; look at the newest runs and at logs/daemon.log")
    else:
        yield Check("ok", f"polls: {describe_live(live, now)}")
    if overdue:
        yield Check("warning", f"not over two hours after the start, left to the backfill: {name_races(overdue, now)}")


def is_late(race: LiveRace, now: datetime) -> bool:
    """Whether the newest poll is older than the cadence at that time and the tolerance allow."""
    if race.polled_at is None:
        return True
    # A race that has just entered its last five minutes was due at the slower cadence until then.
    return now - race.polled_at > choose_interval(race.start_time - race.polled_at) + POLL_TOLERANCE


def name_races(races: Sequence[LiveRace], now: datetime) -> str:
    """The first few races and the age of their last poll."""
    named = [
        f"{race.title} (never polled)"
        if race.polled_at is None
        else f"{race.title} (polled {describe_age(now - race.polled_at)} ago)"
        for race in races[:_NAMED_RACES]
    ]
    more = len(races) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def describe_live(live: Sequence[LiveRace], now: datetime) -> str:
    """How many races are live, and the oldest last poll among them."""
    if not live:
        return f"no race is live (in its last {LAST_MINUTES // timedelta(minutes=1)} minutes, or started and not over)"
    oldest = max(now - race.polled_at for race in live if race.polled_at is not None)
    return f"{len(live)} live races, oldest last poll {describe_age(oldest)} ago"


def describe_age(age: timedelta) -> str:
    """``12 s``, ``7 min`` or ``3 h``."""
    seconds = max(round(age.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
