"""The things all steps of a run share: one HTTP session, one connection pool, one worker pool, one board.

Each reads the settings when a run begins, not when the code location loads, so that ``dagster dev`` shows its jobs on
a machine where nothing is exported yet. A field bears the name of its environment variable and, where a run config or
a definition sets it, comes before it; secrets are no fields, because Dagster shows fields. A resource that cannot be
had fails the run with one line saying why.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import dagster as dg
from pydantic import Field, SecretStr

from raceday_dagster.dagster_plugins.forked_process import RunServerError, fork_call
from raceday_dagster.defs.failures import refusing_plainly
from raceday_dagster.defs.reporting import ProgressBoard
from raceday_dagster.defs.silks import StoredDescriptions
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.images.batch import open_stages
from raceday_dagster.logs import adding_to_every_line
from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.check import check_schema
from raceday_dagster.workers.entry import Calculation, name_calculation
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster.workers.worker import WorkerProcess, start_by_fork_server

_proven: set[SecretStr] = set()
"""Databases that were found to have our schema, in this process. Dagster's command line makes the resources a second
time after the run has ended: nothing is opened then."""


@contextmanager
def open_race_store(settings: Settings) -> Iterator[RaceStore]:
    """A store on a pool of its own, closed at the end.

    Raises:
        SettingsError: ``DATABASE_URL`` is not set.
        DatabaseError: The database cannot be used; the message says what to run.
    """
    url = settings.require_database_url()
    engine = build_engine(url, pool_max=settings.db_pool_max)
    try:
        if url not in _proven:
            check_schema(engine)
            _proven.add(url)
        yield RaceStore(engine)
    finally:
        engine.dispose()


class SettingsResource(dg.ConfigurableResource[Settings]):
    """The environment, validated once a run."""

    race_deadline_s: float | None = Field(
        default=None, description="Seconds a race may take, whatever the API does. Not set: RACE_DEADLINE_S, else 12."
    )
    race_countries: str | None = Field(
        default=None, description="Countries that are followed, like NZ,AUS. Not set: RACE_COUNTRIES, else NZ,AUS."
    )
    race_categories: str | None = Field(
        default=None, description="Categories that are followed, of T, H and G. Not set: RACE_CATEGORIES, else T,H."
    )
    keep_runs_hours: int | None = Field(
        default=None, description="Hours that maintenance keeps a finished run. Not set: KEEP_RUNS_HOURS, else 48."
    )
    keep_ledger_days: int | None = Field(
        default=None, description="Days that the ledger stays in the database. Not set: KEEP_LEDGER_DAYS, else 90."
    )

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Settings]:
        """The settings; ``Refused`` where one is wrong. Until the run ends, every log line of its process carries its
        id: this is the one resource that every run with log lines has."""
        settings = _read_settings(self)
        with adding_to_every_line(**({"run_id": context.run.run_id} if context.run else {})):
            yield settings


class RacingApiResource(dg.ConfigurableResource[RacingApi]):
    """The NZ TAB API: one session, shared by the races in flight. NZTAB_FROM_EMAIL, NZTAB_PARTNER_NAME and
    NZTAB_PARTNER_ID say who asks."""

    nztab_api_url: str | None = Field(
        default=None, description="The API. Not set: NZTAB_API_URL, else https://api.tab.co.nz/affiliates/v1."
    )
    nztab_timeout_s: float | None = Field(
        default=None, description="Seconds for one try of a request. Not set: NZTAB_TIMEOUT_S, else 5."
    )

    @contextmanager
    def yield_for_execution(self, _context: dg.InitResourceContext) -> Iterator[RacingApi]:
        """The client; ``Refused`` where a setting is wrong or nobody asks."""
        settings = _read_settings(self)
        with refusing_plainly():
            identity = settings.require_identity()
        with RacingApi(settings.nztab_api_url, identity, timeout_s=settings.nztab_timeout_s) as api:
            yield api


class RaceStoreResource(dg.ConfigurableResource[RaceStore]):
    """The database of DATABASE_URL: one pool of connections, one connection a race."""

    db_pool_max: int | None = Field(
        default=None,
        description="Connections of this run's pool. Not set: DB_POOL_MAX, else 10, which is also the most races in "
        "flight.",
    )

    @contextmanager
    def yield_for_execution(self, _context: dg.InitResourceContext) -> Iterator[RaceStore]:
        """The store; ``Refused`` where a setting is wrong or the database cannot be used."""
        settings = _read_settings(self)
        with ExitStack() as stack:
            with refusing_plainly():
                store = stack.enter_context(open_race_store(settings))
            yield store


def start_worker_process(pipe: Connection, calculation: Calculation | None) -> WorkerProcess:
    """A worker from the run server that forked this run: a fork of a fork would begin without its imports. Where no run
    server did, or it is gone, one from a fork server of this run's own.

    Raises:
        OSError: There was no process to be had.
    """
    try:
        return fork_call("raceday_dagster.workers.entry:serve_descriptor", pipe.fileno(), name_calculation(calculation))
    except RunServerError:
        raise  # A process may hold this pipe: another one gets a pipe of its own.
    except OSError:
        return start_by_fork_server(pipe, calculation)


class TransformWorkersResource(dg.ConfigurableResource[TransformWorkers]):
    """The worker processes of the transform: one starts while the first races are fetched, more when races wait."""

    transform_workers: int | None = Field(
        default=None,
        description="Most worker processes at once; 0 computes in the steps' own threads. Not set: "
        "TRANSFORM_WORKERS, else 3.",
    )

    @contextmanager
    def yield_for_execution(self, _context: dg.InitResourceContext) -> Iterator[TransformWorkers]:
        """The workers, not started; ``Refused`` where a setting is wrong."""
        with TransformWorkers(_read_settings(self).transform_workers, start_process=start_worker_process) as workers:
            yield workers


@dg.resource(
    required_resource_keys={"settings", "race_store"},
    description="What the images of a run share: temporary URLs, the vision API of VISION_API_URL, kept descriptions.",
)
def image_stages(context: dg.InitResourceContext) -> Iterator[Any]:
    descriptions = StoredDescriptions(context.resources.race_store)
    with ExitStack() as stack:
        with refusing_plainly():
            stages = stack.enter_context(open_stages(context.resources.settings, descriptions=descriptions))
        yield stages


@dg.resource(description="Counts the races or images of a run for the progress lines.")
def progress_board(_context: dg.InitResourceContext) -> ProgressBoard:
    return ProgressBoard()


def _read_settings(resource: dg.Config) -> Settings:
    with refusing_plainly():
        return Settings.from_environment(chosen=resource.model_dump())


RESOURCES: Mapping[str, Any] = {
    "settings": SettingsResource(),
    "racing_api": RacingApiResource(),
    "race_store": RaceStoreResource(),
    "transform_workers": TransformWorkersResource(),
    "progress_board": progress_board,
    "image_stages": image_stages,
    # Values between the steps of one process need no disk: the default pickles each of them.
    "io_manager": dg.mem_io_manager,
}
