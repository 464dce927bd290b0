"""``make faults``, its last part: random faults on a real ``raceday up``, and what of its promises it kept.

A seed repeats a campaign: the same faults in the same order, for as long, after the same pauses. Exits with 1 when a
promise was broken or a fault did not fire.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cadence import Outage
from benchmarks.live_day import DayWatch, LiveDay, find_processes, open_live_day
from benchmarks.promises import Fault, Promise, check_left_over, check_tables, find_late_polls
from benchmarks.soak import LATENCY_MS, kill_run, wait_for_batches, wait_until
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.running import RunningSimulator

FIRES_WITHIN_S = 60.0
SHORTEST_S, LONGEST_S = 5.0, 12.0
"""How long what lasts, lasts."""
QUIET_S = (5.0, 20.0)
"""Between two faults, after the time in which everything must work again."""
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
WHERE backend_type = 'client backend' AND usename <> current_user
"""
FAILED_RUNS = "SELECT count(*) FROM runs WHERE status = 'FAILURE'"
TERMINATE_EVERY_S = 0.2


class NotFiredError(Exception):
    """A fault that nobody met."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: Breaks something for so many seconds, or once; returns the proof. Raises ``NotFiredError``.
        recovers_within_s: Seconds after its end in which races may still be polled late.
        may_fail: Whether polls may fail meanwhile.
    """

    inject: Callable[[LiveDay, float], str]
    recovers_within_s: float
    may_fail: bool = False


@dataclass(frozen=True)
class Planned:
    """A fault of the plan."""

    kind: str
    lasts_s: float
    quiet_s: float


def plan_faults(seed: int) -> Iterator[Planned]:
    """Faults without end: every kind once in each round, the order and the durations by the seed."""
    draw = random.Random(seed)
    while True:
        for kind in draw.sample(list(KINDS), len(KINDS)):
            yield Planned(kind, draw.uniform(SHORTEST_S, LONGEST_S), draw.uniform(*QUIET_S))


def wait_for_proof(fired: Callable[[], bool], what: str) -> None:
    """Returns when a fault has fired. Raises ``NotFiredError``."""
    give_up_at_s = time.monotonic() + FIRES_WITHIN_S
    while not fired():
        if time.monotonic() > give_up_at_s:
            raise NotFiredError(f"{what} within {FIRES_WITHIN_S:.0f} s")
        time.sleep(0.2)


# How each kind is injected


def kill_part(part: str, day: LiveDay, _lasts_s: float) -> str:
    """SIGKILL to a part of the service; the proof is its successor."""
    before = day.kill(part)
    wait_for_proof(lambda: day.read_state()["children"].get(part, before) != before, f"no other {part} was started")
    return f"pid {before} was replaced"


def stop_part(part: str, day: LiveDay, lasts_s: float) -> str:
    """SIGSTOP to a part of the service for a while."""
    process = psutil.Process(day.read_state()["children"][part])
    process.suspend()
    wait_for_proof(lambda: process.status() == psutil.STATUS_STOPPED, f"{part} did not stand still")
    time.sleep(lasts_s)
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return f"pid {process.pid} stood still and was replaced"
    return f"pid {process.pid} stood still for {lasts_s:.0f} s"


def kill_a_run(day: LiveDay, _lasts_s: float) -> str:
    """SIGKILL to a run in the middle of its work, nearly always a live batch; the proof is its failure."""

    def count_failed() -> int:
        return int(day.ask(FAILED_RUNS, "DAGSTER_PG_URL")[0]["count"])

    before = count_failed()
    kill_run(day)
    wait_for_proof(lambda: count_failed() > before, "no run failed")
    return "its run failed"


def terminate_backends(day: LiveDay, lasts_s: float) -> str:
    """Ends every connection to both databases, five times a second."""
    ended, ends_s = 0, time.monotonic() + lasts_s
    while time.monotonic() < ends_s:
        ended += day.ask(TERMINATE)[0]["ended"]
        time.sleep(TERMINATE_EVERY_S)
    if not ended:
        raise NotFiredError("no connection was there to be ended")
    return f"{ended} connections ended"


def restart_database(day: LiveDay, _lasts_s: float) -> str:
    """SIGKILL to the database server; the proof is its successor."""
    server = EmbeddedPostgres(day.home)
    before = server.status().pid
    if before is None:
        raise NotFiredError("the database did not run")
    os.kill(before, signal.SIGKILL)
    wait_for_proof(lambda: server.status().pid not in {None, before}, "no other database was started")
    return f"pid {before} was replaced"


def break_api(kind: str, day: LiveDay, lasts_s: float, **parameters: Any) -> str:
    """A fault of the simulated API for every race; the proof is what the simulator counted."""
    api = RunningSimulator(day.read_state()["environment"]["NZTAB_API_URL"], pid=0)
    rule = api.add_fault("/racing/events/", kind, **parameters)
    try:
        time.sleep(lasts_s)
        wait_for_proof(lambda: api.fired(rule) > 0, "no race was asked for")
        return f"{api.fired(rule)} answers"
    finally:
        api.clear_faults()


KINDS = {
    "a run worker is killed": Kind(kill_a_run, 20),
    "the code server is killed": Kind(partial(kill_part, "code-server"), 30),
    "the code server stands still": Kind(partial(stop_part, "code-server"), 30),
    "the run server is killed": Kind(partial(kill_part, "run-server"), 30),
    "the daemon is killed": Kind(partial(kill_part, "daemon"), 45),
    "every connection is ended": Kind(terminate_backends, 30, may_fail=True),
    "the database is killed": Kind(restart_database, 45, may_fail=True),
    "the API answers 503": Kind(partial(break_api, "status", code=503), 20, may_fail=True),
    "the API sends garbage": Kind(partial(break_api, "garbage"), 20, may_fail=True),
    # Five at a time, and a race that is given up after its deadline: a batch of twenty-four takes a minute.
    "the API does not answer": Kind(partial(break_api, "hold", timeout_s=600), 75, may_fail=True),
    "the API answers after 4 s": Kind(partial(break_api, "latency", ms=4_000), 45, may_fail=True),
}


# The campaign


def main() -> None:
    """Runs a campaign in a folder of its own, removed unless something broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long faults are injected (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="repeats a campaign (default 1)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="raceday-faults-")).resolve()
    folder.chmod(0o755)  # the account of the database must enter it
    home, temporary = folder / "home", folder / "tmp"
    temporary.mkdir(mode=0o755)
    try:
        with open_live_day(home, latency_ms=LATENCY_MS, TMPDIR=str(temporary)) as day:
            promises = run_campaign(day, timedelta(minutes=arguments.minutes), arguments.seed)
        promises += check_left_over(find_processes(home), home, temporary)
    finally:
        EmbeddedPostgres(home).stop()  # which a service that died leaves
    print_promises(promises)
    if any(promise.broken for promise in promises):
        sys.exit(f"kept for a look: {folder}")
    shutil.rmtree(folder)


def run_campaign(day: LiveDay, span: timedelta, seed: int) -> list[Promise]:
    """Faults for ``span`` from the first live batch on; what was promised, and what became of it."""
    began_at = wait_for_batches(day)
    load = os.getloadavg()[0]
    faults: list[Fault] = []
    silent: list[str] = []
    with DayWatch(day) as watch:
        for planned in itertools.takewhile(lambda _: datetime.now(UTC) < began_at + span, plan_faults(seed)):
            kind, fault_began_at = KINDS[planned.kind], datetime.now(UTC)
            try:
                proof = kind.inject(day, planned.lasts_s)
            except NotFiredError as error:
                proof = f"did not fire: {error}"
                silent.append(f"{planned.kind}: {error}")
            print(f"{fault_began_at:%H:%M:%S} {planned.kind}: {proof}", flush=True)
            works_at = datetime.now(UTC) + timedelta(seconds=kind.recovers_within_s)
            faults.append(Fault(planned.kind, proof, Outage(fault_began_at, works_at), kind.may_fail))
            wait_until(works_at + timedelta(seconds=planned.quiet_s))
            if day.process.poll() is not None:
                raise RuntimeError(f"raceday up has ended: {day.log.read_text(errors='replace')[-2000:]}")
    ended_at = datetime.now(UTC)
    promises = [
        Promise("every fault fired", f"{len(faults)} faults", silent),
        *check_tables(day, faults, began_at, ended_at),
        check_connections(watch),
    ]
    print(f"\n{ended_at:%Y-%m-%d}, seed {seed}, {(ended_at - began_at).total_seconds() / 60:.1f} minutes at ", end="")
    print(f"{LATENCY_MS} ms, load of the machine {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end\n")
    print_faults(day, faults)
    print("\n| part | memory, MB at the start and the end |\n|---|--:|")
    for name, told in watch.describe_memory().items():
        print(f"| {name} | {told} |")
    return promises


def check_connections(watch: DayWatch) -> Promise:
    """G4, as the server saw it."""
    ceiling = Settings.from_environment({}).db_pool_max
    taken = watch.most_connections
    broken = [f"{taken} connections, {ceiling} are allowed"] if taken > ceiling else []
    return Promise(f"never more than {ceiling} connections", f"at most {taken} seen", broken)


def print_faults(day: LiveDay, faults: Sequence[Fault]) -> None:
    """The Markdown of README.md: what was injected, and the longest gap across it."""
    longest = find_late_polls(day.read_races(), day.read_polls(), faults)
    print("| fault | times | last proof | longest gap across it of a race due every 15 s, s |\n|---|--:|---|--:|")
    for kind, times in Counter(fault.kind for fault in faults).items():
        proof = next(fault.proof for fault in reversed(faults) if fault.kind == kind)
        print(f"| {kind} | {times} | {proof} | {longest.get(kind, float('nan')):.1f} |")


def print_promises(promises: Sequence[Promise]) -> None:
    """The Markdown of README.md, and everything that was broken below it."""
    print("\n| promise | checked | broken |\n|---|---|--:|")
    for promise in promises:
        print(f"| {promise.name} | {promise.checked} | {len(promise.broken)} |")
    for promise in promises:
        for line in promise.broken:
            print(f"BROKEN: {promise.name}: {line}")


if __name__ == "__main__":
    main()
