"""How the executor's tests run a job and see what its steps did.

Steps run in the process of the test, so both hold the same `probe`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

PATIENCE_S = 20.0  # a wait that takes this long has failed


class Probe:
    """Counts what is inside at once and keeps what happened, in order."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, parties: int = 1, together: int = 1) -> None:
        self.lock = threading.Lock()
        self.inside: set[object] = set()
        self.peak = 0
        self.happened: list[str] = []
        self.barrier = threading.Barrier(parties)
        self.release = threading.Event()
        self.together = together
        self.met = threading.Event()

    def note(self, what: str) -> None:
        with self.lock:
            self.happened.append(what)

    def enter(self, who: object) -> None:
        with self.lock:
            self.inside.add(who)
            self.peak = max(self.peak, len(self.inside))
            if len(self.inside) >= self.together:
                self.met.set()

    def leave(self, who: object) -> None:
        with self.lock:
            self.inside.remove(who)

    @contextmanager
    def counted(self) -> Iterator[None]:
        me = object()
        self.enter(me)
        try:
            yield
        finally:
            self.leave(me)

    @contextmanager
    def met_others(self) -> Iterator[None]:
        """As ``counted``, and the first stay until as many are inside at once as ``reset`` was told."""
        with self.counted():
            assert self.met.wait(PATIENCE_S), f"never {self.together} inside at once"
            self.release.wait(0.02)  # for one too many to come in
            yield


probe = Probe()
IN_MEMORY = {"io_manager": dg.mem_io_manager}


def run(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    ops: dict[str, dict[str, object]] | None = None,
    execution: dict[str, object] | None = None,
    raise_on_error: bool = False,
) -> dg.JobExecutionResult:
    """Run a job as a run worker does. `ops` and `execution` are the config of each."""
    run_config = {
        "ops": {name: {"config": config} for name, config in (ops or {}).items()},
        "execution": {"config": execution or {}},
    }
    return dg.execute_job(dg.reconstructable(job), instance, run_config=run_config, raise_on_error=raise_on_error)


def messages(result: dg.JobExecutionResult, kind: dg.DagsterEventType) -> list[str]:
    return [event.message or "" for event in result.all_events if event.event_type == kind]
