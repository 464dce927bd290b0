"""Imported once by the fork server, before it forks a worker: what every worker needs, loaded and settled.

Importing it changes the process (environment, garbage collector), so nothing else may.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

# A worker calculates in one thread; a numerical library's own threads would not survive the fork anyway.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

for name in ("pebble.pool.process", "raceday_dagster.workers.worker", "raceday_dagster.transform.race"):
    import_module(name)

# Pages the collector never touches again stay shared between the workers.
gc.collect()
gc.freeze()
