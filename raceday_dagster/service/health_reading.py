"""Reading what ``raceday health`` judges: from the databases that are given, or those of the service that runs here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.errors import DatabaseError, ServiceError
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.sandbox.sandbox import write_instance_config
from raceday_dagster.service.dagster_storage import open_instance, read_automation, read_heartbeats
from raceday_dagster.service.health import (
    Check,
    judge_automation,
    judge_day,
    judge_heartbeats,
    judge_polls,
    judge_service,
)
from raceday_dagster.service.instance_lock import Holder, read_holder
from raceday_dagster.service.service_files import ServiceState, read_state
from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import read_live_races
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.check import check_schema
from raceday_dagster.store.sql_errors import describe_place


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
    return [*_check_dagster(environment, settings, now, state)]


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
        yield judge_day(RaceStore(engine).is_listed(choose_current_racing_day(now)), now, up_since)
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
        write_instance_config(home)
    return str(Path(home))
