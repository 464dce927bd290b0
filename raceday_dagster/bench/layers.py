"""What each of our own layers costs in a batch: how long its functions are at work, in all threads together.

The functions are replaced by timed ones while a batch runs, and put back; that costs a microsecond a call. What a layer
does in another process is not seen: of the transform there is the CPU of the hand-over, and the wait for the answer.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import dagster as dg

from raceday_dagster.bench.statistics import Spread
from raceday_dagster.defs.ops import batch
from raceday_dagster.fetch import client
from raceday_dagster.racing.records import Record
from raceday_dagster.store import ledger
from raceday_dagster.workers.pool import TransformWorkers

Place = tuple[Any, str]
"""A class or a module, and the name of a function there."""


class LayerCost(Record):
    """What one layer took a batch."""

    calls: Spread
    wall_ms: Spread
    cpu_ms: Spread
    """Of this process."""


@dataclass
class Clock:
    """Adds up the calls of one layer; a call from within another one of the same layer is part of it."""

    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _inside: threading.local = field(default_factory=threading.local)

    def time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its calls counted and timed."""

        @wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            if getattr(self._inside, "it", False):
                return function(*given, **named)
            self._inside.it = True
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return function(*given, **named)
            finally:
                wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
                self._inside.it = False
                with self._lock:
                    self.calls, self.wall_s, self.cpu_s = self.calls + 1, self.wall_s + wall_s, self.cpu_s + cpu_s

        return timed


def find_layers(instance: dg.DagsterInstance) -> dict[str, tuple[Place, ...]]:
    """Where each layer is entered."""
    return {
        "validation": ((client, "parse_race_event"),),
        "transform workers": ((TransformWorkers, "start"), (TransformWorkers, "transform")),
        # The threads of the steps hand an event over; one thread sends what was gathered.
        "event log": ((dg.DagsterInstance, "handle_new_event"), (type(instance.event_log_storage), "_insert")),
        "ledger": ((ledger, "record_polls"), (ledger, "record_batch")),
        "metadata": (
            (dg.OpExecutionContext, "add_output_metadata"),
            (batch, "build_summary_metadata"),
            (batch, "build_signal_metadata"),
        ),
    }


@contextmanager
def timing(layers: Mapping[str, Sequence[Place]]) -> Iterator[dict[str, Clock]]:
    """Times the calls of each layer in the block."""
    clocks = {layer: Clock() for layer in layers}
    replaced = [(*place, getattr(*place), clocks[layer]) for layer, places in layers.items() for place in places]
    try:
        for owner, name, function, clock in replaced:
            setattr(owner, name, clock.time(function))
        yield clocks
    finally:
        for owner, name, function, _clock in replaced:
            setattr(owner, name, function)


def sum_up(batches: Sequence[Mapping[str, Clock]]) -> dict[str, LayerCost]:
    """What each layer took in some batches; empty without any."""
    costs = {}
    for layer in batches[0] if batches else ():
        clocks = [clocks[layer] for clocks in batches]
        costs[layer] = LayerCost(
            calls=Spread.of([clock.calls for clock in clocks]),
            wall_ms=Spread.of([1000 * clock.wall_s for clock in clocks]),
            cpu_ms=Spread.of([1000 * clock.cpu_s for clock in clocks]),
        )
    return costs
