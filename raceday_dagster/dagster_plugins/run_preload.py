"""Imported once by the fork server of run workers: what every run needs, loaded and settled.

Importing it changes the process (environment, garbage collector), so nothing else may. It opens no connection, engine
or channel: a worker would share it with its siblings.
"""

import os
from importlib import import_module

# Before numpy is imported. Worker processes of the calculation are forked from the run's.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

IMPORTED_BY_EVERY_RUN = (
    "dagster._core.instance.factory",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.system_config.composite_descent",
    "dagster._core.utility_ops",
    "dagster._core.secrets.env_file",
    "dagster._core.workspace.autodiscovery",
    "dagster._grpc.impl",
    "dagster._utils.test.definitions",
    "dagster_postgres",
    "psycopg2.extras",
    "raceday_dagster.dagster_plugins.launcher",
    "raceday_dagster.dagster_plugins.storage",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "upath.implementations.local",
)
"""What `sys.modules` had more of after a run in a fork. A name that is gone costs a run its own time, no more."""

for name in ("raceday_dagster.definitions", *IMPORTED_BY_EVERY_RUN):
    try:
        import_module(name)
    except ModuleNotFoundError:
        continue
import_module("raceday_dagster.definitions").defs.get_repository_def().get_all_jobs()

# Last: it freezes what is there.
import_module("raceday_dagster.workers.preload")
