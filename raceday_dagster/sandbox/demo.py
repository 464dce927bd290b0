"""The demo: a simulated racing day, loaded and then polled three times while the money moves.

Every step is a real ``dagster job execute`` in a process of its own, in the sandbox's Dagster instance: nothing here
is a shortcut that a user could not type.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import NullPool, create_engine

from raceday_dagster.errors import SandboxError
from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.sandbox.sandbox import Sandbox, Simulation, hold_alone, open_sandbox
from raceday_dagster.settings import Settings, parse_database_url
from raceday_dagster.store.run_queries import Mover, NextRace, PollLine, read_movers, read_next_races, read_polls

RACES = 5
BEFORE_FIRST_START = timedelta(minutes=3)
BETWEEN_POLLS = (timedelta(0), timedelta(minutes=2, seconds=30), timedelta(minutes=5))
"""Simulated time that passes before each poll."""
END_WITHIN_S = 15.0
_SEED = 7
_KEPT_SETTINGS = {"RACEDAY_HOME", "DB_POOL_MAX", "TRANSFORM_WORKERS"}
_SHADES = {"success": "green", "skipped": "yellow", "failed": "red"}


@dataclass(frozen=True)
class _Stage:
    """What every step of the demo needs."""

    console: Console
    sandbox: Sandbox
    logs: Path


def run_demo(environment: Mapping[str, str]) -> None:
    """Runs the demo and prints what it came to, on a server, a simulator and databases of its own.

    Raises:
        SandboxError: A step failed; the message names its log.
    """
    console = Console()
    own = keep_own_settings(environment)  # a whole day in a minute needs its own clock
    home = Settings.from_environment(own).raceday_home.resolve()
    busy = SandboxError(f"another demo is running in {home}; wait for it, or set RACEDAY_HOME")
    with hold_alone(home, "demo.lock", busy):
        _show(console, own, home)
    console.print(
        "\nWhat to type next:\n"
        "  [bold]make dev[/bold]    the Dagster UI on a simulated day, at http://127.0.0.1:3000\n"
        "  [bold]make test[/bold]   the tests\n"
        "  [bold].venv/bin/raceday sandbox -- raceday images --silks[/bold]    the jockeys' silks, described\n"
        "  [bold].venv/bin/raceday sandbox -- dagster job execute"
        " -m raceday_dagster.definitions -j daily_baseline[/bold]\n"
        "README.md has the rest, the real API among it.",
        soft_wrap=True,
    )


def keep_own_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for what must not touch anybody's data, nor tell anybody: with the settings that say how much a
    machine may do, and without those that name places."""
    others = {name.upper() for name in Settings.model_fields} - _KEPT_SETTINGS | {"DAGSTER_HOME"}
    return {name: value for name, value in environment.items() if name not in others}


def _show(console: Console, environment: Mapping[str, str], home: Path) -> None:
    racing_day = datetime.now(NEW_ZEALAND).date()
    first_start = datetime.combine(racing_day, time(11), NEW_ZEALAND).astimezone(UTC)
    simulation = Simulation(
        seed=_SEED,
        racing_day=racing_day,
        first_start=first_start,
        database="raceday_demo",
        fresh_database=True,  # a day that has been polled to its end cannot begin again
        now=first_start - timedelta(hours=5),
    )
    console.print("[dim]starting PostgreSQL and the simulated API[/dim]")
    with open_sandbox(environment, simulation) as sandbox:
        stage = _Stage(console, sandbox, home / "demo")
        _load(stage, racing_day)
        # Not pooled: a connection kept here would be one less for the jobs.
        engine = create_engine(parse_database_url(sandbox.environment["DATABASE_URL"]), poolclass=NullPool)
        races = read_next_races(engine, after=first_start + timedelta(hours=2), limit=RACES)
        if len(races) < RACES:
            raise SandboxError(f"the simulated day has {len(races)} races to poll, not {RACES}")
        run_ids = _poll(stage, races)
        movers = read_movers(engine, [race.race_id for race in races], run_ids)
        for table in (_build_polls_table(read_polls(engine, run_ids), races), _build_movers_table(movers, races)):
            console.print()
            console.print(table)


def load_simulated_day(console: Console, environment: Mapping[str, str], home: Path, racing_day: date) -> None:
    """Loads a racing day with a progress bar, in the sandbox that ``environment`` names.

    Raises:
        SandboxError: The job failed; the message names its log.
    """
    _load(_Stage(console, Sandbox(dict(environment), None), home / "demo"), racing_day)


def _load(stage: _Stage, racing_day: date) -> None:
    config = {"ops": {"fetch_meetings": {"config": {"racing_day": racing_day.isoformat()}}}}
    _execute(stage, f"loading racing day {racing_day}", "daily_baseline", config)


def _poll(stage: _Stage, races: list[NextRace]) -> list[str]:
    assert stage.sandbox.simulator is not None
    clock = races[0].start_time - BEFORE_FIRST_START
    config = {"ops": {"select_races": {"config": {"race_ids": [race.race_id for race in races]}}}}
    run_ids = []
    for number, passed in enumerate(BETWEEN_POLLS, start=1):
        clock += passed
        stage.sandbox.simulator.set_clock(now=clock)
        title = f"poll {number} of the next {len(races)} races, {clock.astimezone(NEW_ZEALAND):%H:%M:%S} at the track"
        run_ids.append(_execute(stage, title, "process_races", config))
    return run_ids


def build_command(job: str, config: Mapping[str, Any], folder: Path) -> list[str]:
    """The command line that runs a job of the code location once, in the foreground.

    ``dagster job execute`` reads its run config from files only: it is written to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / f"{job}-{uuid4().hex[:8]}.yaml"
    config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")  # JSON is YAML
    dagster = (sys.executable, "-m", "dagster", "job", "execute")
    return [*dagster, "-m", "raceday_dagster.definitions", "-j", job, "-c", str(config_file)]


def _execute(stage: _Stage, title: str, job: str, config: Mapping[str, Any]) -> str:
    """Runs a job with a progress bar, which its ``batch_progress`` lines drive, and returns its Dagster run id.

    Its config and what its process prints go to files in the demo's folder of logs.
    """
    command = build_command(job, config, stage.logs)
    log_file = stage.logs / f"{job}-{uuid4().hex[:8]}.log"
    run_id = ""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=stage.console) as progress,
        log_file.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=stage.sandbox.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        bar = progress.add_task(title, total=None)
        try:
            for event in _read_events(process, log):
                run_id = str(event.get("run_id") or run_id)
                if event["event"] == "batch_start":
                    progress.update(bar, total=int(event["total"]))
                elif event["event"] == "batch_progress":
                    progress.update(bar, completed=int(event["completed"]))
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0 or not run_id:
        raise SandboxError(f"{title}: the job {job} failed with exit code {process.returncode}; its log is {log_file}")
    return run_id


def _end(process: subprocess.Popen[str]) -> None:
    """Asks a job to end and waits for it: what it needs is about to be taken away. Kills it if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _read_events(process: subprocess.Popen[str], log: TextIO) -> Iterator[dict[str, Any]]:
    """Our own log lines, which are JSON objects; Dagster's are not, and only go to the log."""
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        if line.startswith('{"event"'):
            with suppress(ValueError):  # two processes wrote into one line
                yield json.loads(line)


def _build_polls_table(polls: Sequence[PollLine], races: Sequence[NextRace]) -> Table:
    """Per race and poll: the milliseconds of each stage and the rows written."""
    headings = ("poll", "fetch", "transform", "write", "total", "rows", "quality")
    table = _start_table("Every poll of every race, in milliseconds", ("race",), headings)
    table.add_column("")
    for race in races:
        mine = [poll for poll in polls if poll.race_id == race.race_id]
        for number, poll in enumerate(mine, start=1):
            times = (poll.fetch_ms, poll.transform_ms, poll.write_ms, poll.total_ms, poll.rows)
            shade = _SHADES[poll.status]
            table.add_row(
                race.title if number == 1 else "",
                str(number),
                *map(str, times),
                "" if poll.quality_score is None else str(poll.quality_score),
                f"[{shade}]{poll.status}[/{shade}]",
                end_section=number == len(mine),
            )
    return table


def _build_movers_table(movers: Sequence[Mover], races: Sequence[NextRace]) -> Table:
    """Per race: the runners whose share of the money moved most between the first and the last poll."""
    title = "Where the money moved: share of all money on the race, first poll to last"
    table = _start_table(title, ("race", "runner"), ("before", "now", "moved", "win pool $", "price"))
    titles = {race.race_id: race.title for race in races}
    for race_id, group in groupby(movers, key=lambda mover: mover.race_id):
        runners = list(group)
        for number, mover in enumerate(runners, start=1):
            moved = mover.share_now - mover.share_before
            shade = "green" if moved > 0 else "red"
            table.add_row(
                titles[race_id] if number == 1 else "",
                f"{mover.runner_number} {mover.name}",
                f"{mover.share_before:.0f} %",
                f"{mover.share_now:.0f} %",
                f"[{shade}]{moved:+.0f}[/{shade}]",
                "" if mover.win_pool_cents is None else f"{mover.win_pool_cents / 100:,.0f}",
                "" if mover.fixed_win is None else f"{mover.fixed_win:.2f}",
                end_section=number == len(runners),
            )
    return table


def _start_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for heading in words:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
