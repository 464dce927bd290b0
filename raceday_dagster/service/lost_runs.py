"""Runs that a code server was executing when it died, and whose own process is gone too.

Dagster would leave them STARTED until the run time-out, holding places in the queue and the races they have claimed.
Only runs that were handed to a code server are looked at: a ``dagster job execute`` has a process that nobody here
knows, and a run caught between two words of its launch is ended by Dagster's start time-out, within a minute or two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from raceday_dagster.service.process_stat import PROC, read_process

LAUNCHED_TAG = ".dagster/grpc_info"
UNFINISHED = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_CLOCK_SLACK_S = 2.0


@dataclass(frozen=True)
class Worker:
    """A run's process: its id, and an instant (epoch seconds) at which it surely ran."""

    pid: int
    seen_at_s: float


@dataclass(frozen=True)
class LostRun:
    """A run without a code server; its workers are empty if it never said that it began."""

    run_id: str
    workers: tuple[Worker, ...]


def find_lost_runs(instance: dg.DagsterInstance) -> list[LostRun]:
    """The unfinished runs of a code server that is known to be dead: call this while none is running."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    return [
        LostRun(record.dagster_run.run_id, tuple(_read_workers(instance, record.dagster_run.run_id)))
        for record in records
        if LAUNCHED_TAG in record.dagster_run.tags
    ]


def end_lost_runs(
    instance: dg.DagsterInstance,
    runs: Iterable[LostRun],
    say: Callable[[str], None],
    *,
    is_alive: Callable[[Worker], bool] | None = None,
) -> list[LostRun]:
    """Marks those whose process is gone as failed, or as cancelled if that was asked for.

    Returns:
        The runs whose process still works: it will end them itself, or be gone at the next look.
    """
    alive = is_alive or is_worker_alive
    working = []
    for lost in runs:
        if any(alive(worker) for worker in lost.workers):
            working.append(lost)
            continue
        run = instance.get_run_by_id(lost.run_id)
        if run is None or run.status not in UNFINISHED:
            continue
        reason = "The process of this run is gone, and so is the code server that had started it."
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=reason)
        else:
            instance.report_run_failed(run, message=reason)
        say(f"run {run.run_id} ({run.job_name}) lost its process with its code server; marked as ended")
    return working


def is_worker_alive(worker: Worker, *, proc: Path = PROC) -> bool:
    """Whether the process still runs, and is not a later one with the same id."""
    if not (proc / "stat").exists():
        return _answers(worker.pid)
    found = read_process(worker.pid, proc=proc)
    if found is None:
        return False
    boot = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime"))
    started_at_s = int(boot.split()[1]) + found.start_ticks / os.sysconf("SC_CLK_TCK")
    return started_at_s <= worker.seen_at_s + _CLOCK_SLACK_S


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_workers(instance: dg.DagsterInstance, run_id: str) -> Iterable[Worker]:
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        pid = getattr(data, "metadata", {}).get("pid")
        if pid is not None and str(pid.value).isdecimal():
            yield Worker(int(str(pid.value)), entry.timestamp)
