"""Imported once by the run server: what every run needs, loaded and built.

It opens no connection, engine or channel, and starts no thread: forks would share the first, and lack the last.
"""

from importlib import import_module

ALSO_IMPORTED = (
    "dagster._core.instance.factory",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.system_config.composite_descent",
    "dagster._core.utility_ops",
    "dagster._core.workspace.autodiscovery",
    "dagster._utils.test.definitions",
    "psycopg2.extras",
    "raceday_dagster.dagster_plugins.run_launcher",
    "raceday_dagster.transform.race",
    "upath.implementations.local",
)
"""What a run and its workers import besides. A name that is gone costs a run its own time, no more."""

for name in ("raceday_dagster.definitions", *ALSO_IMPORTED):
    try:
        import_module(name)
    except ModuleNotFoundError:
        continue
import_module("raceday_dagster.definitions").defs.get_repository_def().get_all_jobs()
