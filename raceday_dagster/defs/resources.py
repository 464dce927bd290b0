"""The things all steps of a run share: one HTTP session, one connection pool, one worker pool, one board.

Each reads the settings when a run begins, not when the code location loads, so that ``dagster dev`` shows its jobs on
a machine where nothing is exported yet. A resource that cannot be had fails the run with one line saying why.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg

from raceday_dagster.defs.failures import refusing_plainly
from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import PoolGauge, build_engine
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.check import check_schema
from raceday_dagster.workers.pool import TransformWorkers


@contextmanager
def open_race_store(settings: Settings) -> Iterator[RaceStore]:
    """A store on a pool of its own, closed at the end.

    Raises:
        SettingsError: ``DATABASE_URL`` is not set.
        DatabaseError: The database cannot be used; the message says what to run.
    """
    engine = build_engine(settings.require_database_url(), pool_max=settings.db_pool_max)
    try:
        check_schema(engine)
        yield RaceStore(engine, gauge=PoolGauge(engine))
    finally:
        engine.dispose()


@dg.resource(description="The environment, validated once a run.")
def settings(_context: dg.InitResourceContext) -> Settings:
    with refusing_plainly():
        return Settings.from_environment()


@dg.resource(
    description="The NZ TAB API: one session, shared by the races in flight.", required_resource_keys={"settings"}
)
def racing_api(context: dg.InitResourceContext) -> Iterator[RacingApi]:
    given: Settings = context.resources.settings
    with refusing_plainly():
        identity = given.require_identity()
    with RacingApi(given.nztab_api_url, identity, timeout_s=given.nztab_timeout_s) as api:
        yield api


@dg.resource(
    description="The database: one pool of DB_POOL_MAX connections, one connection a race.",
    required_resource_keys={"settings"},
)
def race_store(context: dg.InitResourceContext) -> Iterator[RaceStore]:
    with ExitStack() as stack:
        with refusing_plainly():
            store = stack.enter_context(open_race_store(context.resources.settings))
        yield store


@dg.resource(
    description="The worker processes of the transform; they start while the first races are fetched.",
    required_resource_keys={"settings"},
)
def transform_workers(context: dg.InitResourceContext) -> Iterator[TransformWorkers]:
    with TransformWorkers(context.resources.settings.transform_workers) as workers:
        yield workers


@dg.resource(description="Counts the races of a run for the progress lines.")
def progress_board(_context: dg.InitResourceContext) -> ProgressBoard:
    return ProgressBoard()


RESOURCES: Mapping[str, Any] = {
    "settings": settings,
    "racing_api": racing_api,
    "race_store": race_store,
    "transform_workers": transform_workers,
    "progress_board": progress_board,
    # Values between the steps of one process need no disk: the default pickles each of them.
    "io_manager": dg.mem_io_manager,
}
