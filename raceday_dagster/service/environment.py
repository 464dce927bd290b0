"""What ``raceday up`` runs on: a sandbox of its own, or the database and API that the environment names.

With ``DATABASE_URL`` nothing simulated is ever started: simulated races go only into databases the sandbox made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from raceday_dagster.errors import ServiceError
from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import choose_simulation, complete_environment, open_sandbox
from raceday_dagster.service.processes import has_ended
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.running import RunningSimulator
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.schema.check import check_schema
from raceday_dagster.store.sql_errors import describe_place

SANDBOX_STOP_S = 1.5
"""For a checkpoint; a server that is ended without it recovers at the next start."""


@dataclass(frozen=True)
class ServiceEnvironment:
    """What the parts run on.

    Attributes:
        variables: The environment of every part, complete.
        description: For people, without a password.
        look_after: Called again and again with a way to print a line: mends what can be, raises ``ServiceError`` for
            what cannot.
    """

    variables: dict[str, str]
    description: str
    look_after: Callable[[Callable[[str], None]], None] = lambda _say: None

    @property
    def home(self) -> Path:
        """``RACEDAY_HOME``, absolute."""
        return Path(self.variables["RACEDAY_HOME"])


@contextmanager
def open_environment(
    environment: Mapping[str, str], now: datetime, *, feed_latency_ms: int | None = None
) -> Iterator[ServiceEnvironment]:
    """Starts what is lacking, checks what is given, and stops what it started. ``now`` chooses the simulated day.

    Raises:
        RacedayError: One line that says which variable to set, or what does not start.
    """
    environment = {name: value for name, value in environment.items() if value.strip()}  # as Settings reads it
    settings = Settings.from_environment(environment)
    simulated = settings.database_url is None and "nztab_api_url" not in settings.model_fields_set
    _refuse_unsafe(settings, simulated=simulated, feed_latency_ms=feed_latency_ms)
    if settings.database_url is not None:
        yield _check_given(settings, environment)
        return
    simulation = replace(choose_simulation(now), latency_ms=feed_latency_ms or 0)
    with open_sandbox(environment, simulation, stop_within_s=SANDBOX_STOP_S) as sandbox:
        starts = simulation.first_start.astimezone(NEW_ZEALAND)
        day = f"simulated racing day {simulation.racing_day}, first start {starts:%H:%M} in New Zealand"
        what = day if simulated else f"an embedded database and {settings.nztab_api_url}"
        server = EmbeddedPostgres(settings.raceday_home.resolve())
        yield ServiceEnvironment(
            sandbox.environment, what, lambda say: keep_sandbox_running(server, sandbox.simulator, say)
        )


def keep_sandbox_running(
    server: EmbeddedPostgres, simulator: RunningSimulator | None, say: Callable[[str], None]
) -> None:
    """Starts the embedded server again if it has ended.

    Raises:
        ServiceError: The simulated API has ended: another would show another day.
        SandboxError: The server does not start.
    """
    if simulator is not None and has_ended(simulator.pid):
        raise ServiceError("the simulated API has ended: start `raceday up` again")
    if not server.status().running:
        say("the embedded PostgreSQL has ended; starting it again")
        server.start()


def _refuse_unsafe(settings: Settings, *, simulated: bool, feed_latency_ms: int | None) -> None:
    if feed_latency_ms is not None and not simulated:
        raise ServiceError("--feed-latency-ms slows the simulated API down: unset DATABASE_URL and NZTAB_API_URL")
    if settings.database_url is None and settings.dagster_pg_url is not None:
        raise ServiceError(
            "DAGSTER_PG_URL is set and DATABASE_URL is not: set both to run on databases of yours, or neither to run "
            "in a sandbox"
        )
    if settings.database_url is not None and settings.dagster_pg_url is None:
        raise ServiceError(
            "DATABASE_URL is set and DAGSTER_PG_URL is not: Dagster needs a database of its own; set DAGSTER_PG_URL "
            "too, or unset DATABASE_URL to run in a sandbox"
        )
    if not simulated:
        settings.require_identity()


def _check_given(settings: Settings, environment: Mapping[str, str]) -> ServiceEnvironment:
    engine = build_engine(settings.require_database_url(), pool_max=1)
    try:
        check_schema(engine)
        place = describe_place(engine)
    finally:
        engine.dispose()
    return ServiceEnvironment(complete_environment(environment, settings), f"{place} and {settings.nztab_api_url}")
