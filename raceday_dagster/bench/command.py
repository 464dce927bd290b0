"""What ``raceday bench`` does: batches of races again and again, in a sandbox of its own or where the environment says.

Contenders take turns, so that what else the machine does meets them all alike. What was measured until a failure or
Ctrl-C is reported all the same.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine, NullPool, create_engine

from raceday_dagster.bench.contenders import FLOOR, MULTIPROCESS, OURS, Contender, build_contenders
from raceday_dagster.bench.layers import Clock, find_layers, sum_up, timing
from raceday_dagster.bench.measure import read_own_cpu_s, watching_memory
from raceday_dagster.bench.report import (
    BatchRun,
    Metadata,
    Report,
    build_report,
    compare,
    describe_report,
    require_folder,
    write_report,
)
from raceday_dagster.bench.statistics import RaceRun, Targets
from raceday_dagster.defs.resources import open_race_store
from raceday_dagster.errors import BenchError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.outcomes import UNKNOWN_RACE
from raceday_dagster.racing.records import Record
from raceday_dagster.sandbox.demo import build_command, keep_own_settings
from raceday_dagster.sandbox.sandbox import Sandbox, Simulation, choose_simulation, hold_alone, open_sandbox
from raceday_dagster.settings import Settings, parse_database_url
from raceday_dagster.simulator.day import PROGRAMME
from raceday_dagster.store.run_queries import read_polls

INTERRUPTED = 130
LOG = "bench.log"
"""In the output folder: what the runs log."""
SLOW_ITERATIONS = 3
"""Iterations in which the multiprocess executor takes part: a batch of it takes half a minute."""
RACES_A_PROGRAMME = 100
"""Races of the simulator's programme that are followed by default, at the least."""
BEFORE_FIRST_START = timedelta(minutes=5)
LIST_DEADLINE_S = 60.0


class Plan(Record):
    """What is to be measured."""

    counts: tuple[int, ...] = ()
    """A scenario for each: so many races of a simulated day."""
    race_ids: tuple[str, ...] = ()
    """One scenario: these races, of the API that the environment names."""
    scenario: str = ""
    latency_ms: int
    iterations: int
    concurrency: int
    output: Path
    formats: tuple[str, ...]
    targets: Targets = Targets()
    compare: bool = False
    with_multiprocess: bool = True
    layers: bool = False

    def name_scenario(self, races: int) -> str:
        """The name of the scenario of so many races."""
        return "-".join(filter(None, (self.scenario, str(races), "race" if races == 1 else "races")))


@dataclass
class _Measured:
    """What has been measured of a scenario so far."""

    runs: list[RaceRun] = field(default_factory=list)
    batches: list[BatchRun] = field(default_factory=list)
    peak_memory_mb: dict[str, float] = field(default_factory=dict)
    layers: list[dict[str, Clock]] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class _Bench:
    """What every scenario needs."""

    plan: Plan
    sandbox: Sandbox
    instance: dg.DagsterInstance
    engine: Engine
    terminal: Console


def read_race_file(path: Path) -> tuple[str, ...]:
    """The race ids of a file: a JSON array of texts.

    Raises:
        BenchError: It is something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise BenchError(f"the race file {path} cannot be read: {why}") from error
    if not isinstance(content, list) or not all(isinstance(item, str) and item.strip() for item in content):
        raise BenchError(f'the race file {path} must be a JSON array of race ids, like ["…", "…"]')
    return tuple(content)


def run_bench(plan: Plan, environment: Mapping[str, str], out: Console | None = None) -> int:
    """Measures, prints and writes every scenario, and returns the exit code.

    0: all targets were kept; 1: one was missed or a poll failed; 130: Ctrl-C.

    Raises:
        BenchError: It cannot begin or go on; what was measured until then is reported.
        SandboxError: There is no sandbox to be had.
        SettingsError: A variable is wrong.
    """
    out = out or Console(highlight=False, soft_wrap=True, markup=False)
    require_folder(plan.output)
    with ExitStack() as stack:
        simulation = _choose_simulation(plan, datetime.now(UTC))
        sandbox = stack.enter_context(_open_sandbox(plan, environment, simulation))
        for name, value in sandbox.environment.items():
            os.environ[name] = value  # of this process, whose runs and their processes read it
        terminal = stack.enter_context(logging_to(plan.output / LOG))
        instance = stack.enter_context(dg.DagsterInstance.get())
        # Not pooled: a connection kept here would be one less for the runs.
        engine = create_engine(parse_database_url(sandbox.environment["DATABASE_URL"]), poolclass=NullPool)
        bench = _Bench(plan, sandbox, instance, engine, Console(file=terminal))
        codes = [0]
        for race_ids in _choose_races(plan, sandbox, simulation.racing_day):
            codes.append(_run_scenario(bench, race_ids, out))
            if codes[-1] == INTERRUPTED:
                break
        return max(codes)


def _choose_simulation(plan: Plan, now: datetime) -> Simulation:
    """For races by id the day that `raceday up` would simulate, otherwise one that is large enough."""
    if plan.race_ids:
        return replace(choose_simulation(now), latency_ms=plan.latency_ms)
    return Simulation(
        seed=11,
        racing_day=choose_current_racing_day(now),
        first_start=now + BEFORE_FIRST_START,
        database="raceday_bench",
        fresh_database=True,
        latency_ms=plan.latency_ms,
        meetings=len(PROGRAMME) * -(-max(plan.counts) // RACES_A_PROGRAMME),
    )


@contextmanager
def _open_sandbox(plan: Plan, environment: Mapping[str, str], simulation: Simulation) -> Iterator[Sandbox]:
    """For a number of races a server, a simulator and databases of their own; for races by id what ``environment``
    names, with the simulation where it names no API."""
    if plan.race_ids:
        with open_sandbox(environment, simulation) as sandbox:
            yield sandbox
        return
    own = keep_own_settings(environment)
    home = Settings.from_environment(own).raceday_home.resolve() / "bench"
    busy = BenchError(f"another benchmark is running in {home}; wait for it, or set RACEDAY_HOME")
    with (
        hold_alone(home, "bench.lock", busy),
        open_sandbox({**own, "RACEDAY_HOME": str(home)}, simulation) as sandbox,
    ):
        yield sandbox


@contextmanager
def logging_to(log: Path) -> Iterator[TextIO]:
    """What the runs and their processes say goes to a file; the value is standard error as it was."""
    with log.open("w", encoding="utf-8") as file, os.fdopen(os.dup(2), "w", encoding="utf-8") as terminal:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


def _choose_races(plan: Plan, sandbox: Sandbox, racing_day: date) -> list[tuple[str, ...]]:
    """The races of each scenario; a simulated day is loaded first, because a race is written into its meeting."""
    listed = _load_day(racing_day) if sandbox.simulator is not None else []
    if plan.race_ids:
        return [tuple(dict.fromkeys(plan.race_ids))]
    if max(plan.counts) > len(listed):
        raise BenchError(f"the simulated day has {len(listed)} races to poll, not {max(plan.counts)}")
    return [tuple(listed[:count]) for count in plan.counts]


def _load_day(racing_day: date) -> list[str]:
    """Writes the list of a racing day; the races that are open, by start."""
    settings = Settings.from_environment()
    with (
        RacingApi(settings.nztab_api_url, settings.require_identity(), timeout_s=settings.nztab_timeout_s) as api,
        open_race_store(settings) as store,
    ):
        listed = api.fetch_racing_day(racing_day, deadline_s=LIST_DEADLINE_S)
        day = listed.select_meetings(countries=settings.race_countries, categories=settings.race_categories)
        store.write_racing_day(day)
    races = sorted(day.races, key=lambda race: (race.start_time, race.race_id))
    return [race.race_id for race in races if race.status == "open"]


def _run_scenario(bench: _Bench, race_ids: Sequence[str], out: Console) -> int:
    plan, measured, started_at = bench.plan, _Measured(), datetime.now(UTC)
    try:
        _measure(bench, race_ids, measured)
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        measured.interrupted = True
    except SystemExit:  # a SIGTERM, or a closed terminal
        measured.interrupted = True
        raise
    finally:
        # Whatever ended it, what was measured is kept.
        metadata = Metadata(
            scenario=plan.name_scenario(len(race_ids)),
            started_at=started_at,
            races=len(race_ids),
            iterations=plan.iterations,
            concurrency=plan.concurrency,
            latency_ms=plan.latency_ms if bench.sandbox.simulator else None,
            interrupted=measured.interrupted,
            cores=os.cpu_count(),
            python=platform.python_version(),
            platform=sys.platform,
            version=version("raceday-dagster"),
        )
        report = build_report(metadata, measured.runs, measured.batches, plan.targets, ours=OURS)
        if plan.compare:
            comparison = compare(measured.batches, floor=FLOOR, peak_memory_mb=measured.peak_memory_mb)
            report = report.model_copy(update={"comparison": comparison})
        if plan.layers:
            report = report.model_copy(update={"layers": sum_up(measured.layers)})
        if measured.batches:
            _show(report, plan, out)
    if measured.interrupted:
        out.print("interrupted" if measured.batches else "interrupted before anything was measured")
        return INTERRUPTED
    return 0 if report.passed else 1


def _show(report: Report, plan: Plan, out: Console) -> None:
    for line in describe_report(report):
        out.print(line)
    out.print()
    for path in write_report(report, plan.output, plan.formats):
        out.print(f"written: {path}")


def _measure(bench: _Bench, race_ids: Sequence[str], measured: _Measured) -> None:
    """Fills ``measured``: a warm-up of each contender, which proves that the API knows the races, then the turns."""
    plan = bench.plan
    known = build_contenders(bench.instance, race_ids, plan.concurrency)
    contenders = known if plan.compare else {OURS: known[OURS]}
    if not plan.with_multiprocess:
        contenders.pop(MULTIPROCESS, None)
    every = max(1, plan.iterations // SLOW_ITERATIONS)
    slow = set(range(1, plan.iterations + 1, every)[:SLOW_ITERATIONS] if MULTIPROCESS in contenders else ())
    turns = [
        (iteration, name)
        for iteration in range(1, plan.iterations + 1)
        for name in contenders
        if name != MULTIPROCESS or iteration in slow
    ]
    fast = [name for name in contenders if name != MULTIPROCESS]
    rounds = len(fast) + len(turns) + plan.iterations * plan.layers
    with _showing_progress(bench.terminal, plan.name_scenario(len(race_ids)), rounds) as advance:
        for name in fast:
            _refuse_unknown_races(bench.engine, contenders[name]())
            advance()
        for iteration, name in turns:
            batch, runs = _time(bench, iteration, name, contenders[name])
            measured.batches.append(batch)
            if name == OURS:
                measured.runs += runs
            advance()
        for _ in range(plan.iterations if plan.layers else 0):
            with timing(find_layers(bench.instance)) as clocks:
                contenders[OURS]()
            measured.layers.append(clocks)
            advance()
    if plan.compare:
        measured.peak_memory_mb[OURS] = _measure_memory(bench.sandbox, race_ids)


@contextmanager
def _showing_progress(terminal: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar, where there is a terminal; the value moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
        # Otherwise it takes what the runs say for something to print.
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def _time(bench: _Bench, iteration: int, name: str, contender: Contender) -> tuple[BatchRun, list[RaceRun]]:
    simulator = bench.sandbox.simulator.pid if bench.sandbox.simulator else None
    cpu_s, started_s = read_own_cpu_s(simulator), time.perf_counter()
    run_id = contender()
    wall_s, cpu_s = time.perf_counter() - started_s, read_own_cpu_s(simulator) - cpu_s
    runs = _read_runs(bench.engine, iteration, run_id)
    batch = BatchRun(
        contender=name,
        iteration=iteration,
        wall_ms=round(1000 * wall_s, 2),
        cpu_ms=round(1000 * cpu_s, 2),
        events=len(bench.instance.all_logs(run_id)),
        failed_polls=sum(run.failed for run in runs),
    )
    return batch, runs


def _read_runs(engine: Engine, iteration: int, run_id: str) -> list[RaceRun]:
    """What the ledger says of the polls of a run."""
    return [
        RaceRun(
            iteration=iteration,
            success=poll.status == "success",
            **poll.model_dump(exclude={"rows", "quality_score"}),
        )
        for poll in read_polls(engine, [run_id])
    ]


def _refuse_unknown_races(engine: Engine, run_id: str) -> None:
    polls = read_polls(engine, [run_id])
    unknown = [poll.race_id for poll in polls if poll.error_type == UNKNOWN_RACE.type]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise BenchError(f"the API does not know {len(unknown)} of {len(polls)} races: {shown}")


def _measure_memory(sandbox: Sandbox, race_ids: Sequence[str]) -> float:
    """Peak memory of a whole ``dagster job execute`` with its workers, in MB."""
    config = {"ops": {"select_races": {"config": {"race_ids": list(race_ids)}}}}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            build_command("process_races", config, Path(folder)), env=sandbox.environment, stdout=subprocess.DEVNULL
        ) as process,
    ):
        with watching_memory(process.pid) as peak:
            code = process.wait()
        if code != 0:
            raise BenchError(f"dagster job execute failed with exit code {code}")
        return peak.mb
