"""Whether the service does its work: ``check_health`` reads the databases, the ``judge_`` functions are pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.machines import Machine, find_living, find_missed, read_machines
from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.errors import DatabaseError, ServiceError
from raceday_dagster.racing.cadence import LAST_MINUTES, LOOK_BACK
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.sandbox.sandbox import write_instance_config
from raceday_dagster.service.console import shorten
from raceday_dagster.service.dagster_instance import (
    HELPERS,
    SENSOR,
    open_instance,
    read_automation,
    read_heartbeats,
)
from raceday_dagster.service.instance_lock import Holder, read_holder
from raceday_dagster.service.service_files import ServiceState, read_state
from raceday_dagster.settings import SHARED_DATABASE, Settings
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import FollowedRace, find_late_races, is_listed, read_live_races
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.check import check_schema
from raceday_dagster.store.sql_errors import describe_place

LONGEST_SILENCE = timedelta(seconds=150)
"""A daemon writes its heartbeat between its rounds only, and the scheduler has one a minute: two and a half of them."""
WARM_UP = timedelta(seconds=60)
"""Within it a service that has just started may not have polled everything yet, nor even begun."""
DAY_GRACE = timedelta(minutes=15)
"""From the turn of the day until its list is expected."""
_NAMED_RACES = 5


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    verdict: Literal["ok", "warning", "FAIL"]
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<7} {self.text}"


def describe_health(checks: Sequence[Check]) -> dict[str, Any]:
    """The report for programs."""
    return {
        "healthy": is_healthy(checks),
        "checks": [{"verdict": check.verdict, "text": check.text} for check in checks],
    }


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings do not count."""
    return all(check.verdict != "FAIL" for check in checks)


def check_health(environment: Mapping[str, str], now: datetime) -> list[Check]:
    """Every check, in the order in which one explains the next.

    Raises:
        SettingsError: A variable that is set is wrong.
    """
    environment = {name: value for name, value in environment.items() if value.strip()}
    settings = Settings.from_environment(environment)
    given = {"DATABASE_URL": settings.database_url, "DAGSTER_PG_URL": settings.dagster_pg_url}
    missing = [name for name, value in given.items() if value is None]
    state = read_state(settings.raceday_home.resolve())
    if len(missing) == 1:
        (other,) = given.keys() - missing
        return [
            Check(
                "FAIL",
                f"settings: {other} is set and {missing[0]} is not: set both, or neither to ask for the service that "
                "runs in RACEDAY_HOME",
            )
        ]
    if missing:
        if state is None:
            return [
                Check(
                    "FAIL",
                    f"service: no `raceday up` runs in {settings.raceday_home}, or it has only just been started; "
                    "start one, set RACEDAY_HOME to where it runs, or set DATABASE_URL and DAGSTER_PG_URL",
                )
            ]
        environment = {**environment, **state.environment}
        settings = Settings.from_environment(environment)
    shared = [Check("warning", f"settings: {SHARED_DATABASE}")] if settings.shares_database else []
    return [*shared, *_check_dagster(environment, settings, now, state)]


def _check_dagster(
    environment: Mapping[str, str], settings: Settings, now: datetime, state: ServiceState | None
) -> Iterator[Check]:
    up_since = None
    try:
        holder = date_holder(read_holder(environment["DAGSTER_PG_URL"]), state)
        yield judge_service(holder)
        up_since = holder.since.astimezone(UTC) if holder and holder.since else None
        with open_instance({**environment, "DAGSTER_HOME": _find_dagster_home(environment, settings)}) as instance:
            yield Check("ok", "storage: Dagster's database answers")
            yield judge_heartbeats(read_heartbeats(instance), now, up_since)
            yield from judge_automation(read_automation(instance), now, up_since)
            if settings.broker_url is not None:
                yield judge_machines(read_machines(instance), now, up_since)
    except (DBAPIError, StorageError, ServiceError) as error:
        yield Check("FAIL", f"storage: {str(error).partition(chr(10))[0]}")
    yield from _check_races(settings, now, up_since)


def date_holder(holder: Holder | None, state: ServiceState | None) -> Holder | None:
    """Who holds the lock, since its start if the state file is its own: the lock's connection may be younger."""
    if holder is None or state is None or not holder.name.startswith(f"raceday up, pid {state.pid} on "):
        return holder
    return replace(holder, since=datetime.fromisoformat(state.started_at))


def _check_races(settings: Settings, now: datetime, up_since: datetime | None) -> Iterator[Check]:
    engine = build_engine(settings.require_database_url(), pool_max=1)
    try:
        check_schema(engine)
        yield Check("ok", f"database: {describe_place(engine)} answers, its schema is this code's")
        yield judge_day(RaceStore(engine).read(is_listed, choose_current_racing_day(now)), now, up_since)
        races = read_live_races(engine, now, countries=settings.race_countries, categories=settings.race_categories)
        yield from judge_polls(races, now, up_since)
    except DatabaseError as error:
        yield Check("FAIL", f"database: {error}")
    finally:
        engine.dispose()


def _find_dagster_home(environment: Mapping[str, str], settings: Settings) -> str:
    if "DAGSTER_HOME" in environment:
        return environment["DAGSTER_HOME"]
    home = settings.raceday_home.resolve() / "dagster"
    if not (home / "dagster.yaml").exists():
        write_instance_config(home, of_cluster=settings.broker_url is not None)
    return str(home)


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
        f"{name} (never seen)"
        if beat is None
        else f"{name} ({describe_age(abs(now - beat))} {'ago' if beat <= now else 'ahead of the clock'})"
        for name, beat in sorted(heartbeats.items())
        if beat is None or abs(now - beat) > LONGEST_SILENCE
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
    """Whether the sensor that polls is switched on, and the other sensor and the schedules are: Dagster's words for
    them, by name, without those that were never seen."""
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


def judge_machines(machines: Mapping[str, Machine], now: datetime, up_since: datetime | None) -> Check:
    """Whether a machine of the cluster takes runs, and whether one that did is missed."""
    living = find_living(machines, now)
    missed = [f"{name} ({describe_age(abs(now - machines[name].seen_at))})" for name in find_missed(machines, now)]
    silent = f"; no sign of life of {', '.join(missed)}" if missed else ""
    if living:
        return Check("warning" if missed else "ok", f"machines: {len(living)} take runs ({', '.join(living)}){silent}")
    verdict: Literal["warning", "FAIL"] = "warning" if is_warming_up(up_since, now) else "FAIL"
    return Check(verdict, f"machines: none takes runs{silent}; start `raceday worker` on one")


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


def judge_polls(races: Sequence[FollowedRace], now: datetime, up_since: datetime | None) -> Iterator[Check]:
    """Whether each live race has a new answer of late, by the clock that wrote the ledger, and which races should long
    have been over."""
    live = [race for race in races if now - race.start_time < LOOK_BACK]
    overdue = [race for race in races if now - race.start_time >= LOOK_BACK]
    late = find_late_races(races, now)
    if late and is_warming_up(up_since, now):
        yield Check("warning", f"polls: the service has just started; {name_races(late, now)}")
    elif late:
        error = next((f"; the newest error: {shorten(race.error)}" for race in late if race.error), "")
        log = "run-server" if error else "daemon"
        yield Check("FAIL", f"polls: {name_races(late, now)}{error}; look at the newest runs and at logs/{log}.log")
    else:
        yield Check("ok", f"polls: {describe_live(live, now)}")
    if overdue:
        yield Check("warning", f"not over two hours after the start, left to the backfill: {name_races(overdue, now)}")


def name_races(races: Sequence[FollowedRace], now: datetime) -> str:
    """The first few races and the age of their last poll that stored a new answer."""
    named = [
        f"{race.title} (no good poll yet)"
        if race.answered_at is None
        else f"{race.title} (last good poll {describe_age(now - race.answered_at)} ago)"
        for race in races[:_NAMED_RACES]
    ]
    more = len(races) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def describe_live(live: Sequence[FollowedRace], now: datetime) -> str:
    """How many races are live, and the oldest last good poll among them."""
    if not live:
        return f"no race is live (in its last {LAST_MINUTES // timedelta(minutes=1)} minutes, or started and not over)"
    oldest = max(now - race.answered_at for race in live if race.answered_at is not None)
    return f"{len(live)} live races, oldest good poll {describe_age(oldest)} ago"


def describe_age(age: timedelta) -> str:
    """``12 s``, ``7 min`` or ``3 h``."""
    seconds = max(round(age.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
