"""Reading what ``raceday health`` judges: from the databases that are given, or those of the service that runs here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from raceday_dagster.errors import DatabaseError
from raceday_dagster.sandbox.sandbox import write_instance_config
from raceday_dagster.service.dagster_storage import open_instance, read_heartbeats, read_sensor_status
from raceday_dagster.service.health import (
    SENSOR,
    Check,
    judge_heartbeats,
    judge_polls,
    judge_sensor,
    judge_service,
)
from raceday_dagster.service.instance_lock import read_holder
from raceday_dagster.service.service_files import read_state
from raceday_dagster.settings import Settings
from raceday_dagster.storage import StorageError
from raceday_dagster.write.engine import build_engine
from raceday_dagster.write.failures import describe_place
from raceday_dagster.write.live_polls import read_live_races
from raceday_dagster.write.schema import check_schema


def check_health(environment: Mapping[str, str], now: datetime) -> list[Check]:
    """Every check, in the order in which one explains the next.

    Raises:
        SettingsError: A variable that is set is wrong.
    """
    environment = {name: value for name, value in environment.items() if value.strip()}
    settings = Settings.from_environment(environment)
    if settings.database_url is None or settings.dagster_pg_url is None:
        state = read_state(settings.raceday_home.resolve())
        if state is None:
            return [
                Check(
                    "FAIL",
                    f"service: no `raceday up` runs in {settings.raceday_home}; start one, set RACEDAY_HOME to where "
                    "it runs, or set DATABASE_URL and DAGSTER_PG_URL",
                )
            ]
        environment = {**environment, **state.environment}
        settings = Settings.from_environment(environment)
    return [*_check_dagster(environment, settings, now)]


def _check_dagster(environment: Mapping[str, str], settings: Settings, now: datetime) -> Iterator[Check]:
    up_since = None
    try:
        holder = read_holder(environment["DAGSTER_PG_URL"])
        yield judge_service(holder)
        up_since = holder.since if holder else None
        with open_instance({**environment, "DAGSTER_HOME": _find_dagster_home(environment, settings)}) as instance:
            yield Check("ok", "storage: Dagster's database answers")
            yield judge_heartbeats(read_heartbeats(instance), now)
            yield judge_sensor(read_sensor_status(instance, SENSOR))
    except StorageError as error:
        yield Check("FAIL", f"storage: {error.message}")
    yield from _check_races(settings, now, up_since)


def _check_races(settings: Settings, now: datetime, up_since: datetime | None) -> Iterator[Check]:
    engine = build_engine(settings.require_database_url(), pool_max=1)
    try:
        check_schema(engine)
        yield Check("ok", f"database: {describe_place(engine)} answers, its schema is this code's")
        races = read_live_races(engine, now, countries=settings.race_countries, categories=settings.race_categories)
        yield from judge_polls(races, now, up_since.astimezone(UTC) if up_since else None)
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
