"""Imported once by a server that forks workers, before it forks one: what every worker needs.

Importing it changes the process (environment, garbage collector), so nothing else may.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

# A worker calculates in one thread; a numerical library's own threads would not survive the fork anyway.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

for name in ("raceday_dagster.workers.entry", "raceday_dagster.transform.race"):
    import_module(name)

# Pages the collector never touches again stay shared between the workers.
gc.collect()
gc.freeze()
