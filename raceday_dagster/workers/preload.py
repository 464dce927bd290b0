"""Imported once by a server that forks workers, before it forks one: what every worker needs.

Importing it freezes the garbage collector of the process, so nothing else may.
"""

from __future__ import annotations

import gc
from importlib import import_module

for name in ("raceday_dagster.workers.entry", "raceday_dagster.transform.race"):
    import_module(name)

# Pages the collector never touches again stay shared between the workers.
gc.collect()
gc.freeze()
