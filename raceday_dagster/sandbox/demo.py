"""The demo: a simulated racing day, loaded and then polled three times while the money moves.

Every step is a real ``dagster job execute`` in a process of its own, in the sandbox's Dagster instance: nothing here
is a shortcut that a user could not type.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import NullPool, create_engine

from raceday_dagster.errors import SandboxError
from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.sandbox.demo_tables import build_movers_table, build_polls_table
from raceday_dagster.sandbox.job_runs import execute_job
from raceday_dagster.sandbox.sandbox import Sandbox, Simulation, open_lock, open_sandbox
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import NextRace, read_movers, read_next_races, read_polls

RACES = 5
BEFORE_FIRST_START = timedelta(minutes=3)
BETWEEN_POLLS = (timedelta(0), timedelta(minutes=2, seconds=30), timedelta(minutes=5))
"""Simulated time that passes before each poll."""
_SEED = 7
_KEPT_SETTINGS = {"RACEDAY_HOME", "DB_POOL_MAX", "TRANSFORM_WORKERS"}


@dataclass(frozen=True)
class _Stage:
    """What every step of the demo needs."""

    console: Console
    sandbox: Sandbox
    logs: Path

    def execute(self, title: str, job: str, config: Mapping[str, Any]) -> str:
        """Runs a job with a progress bar and returns its run id."""
        return execute_job(self.console, title, job, config, self.sandbox.environment, self.logs)


def run_demo(environment: Mapping[str, str]) -> None:
    """Runs the demo and prints what it came to, on a server, a simulator and databases of its own.

    Raises:
        SandboxError: A step failed; the message names its log.
    """
    console = Console()
    # The demo shows a whole day in a minute: that needs its own clock, and must not touch anybody's data.
    others = {name.upper() for name in Settings.model_fields} - _KEPT_SETTINGS | {"DAGSTER_HOME"}
    own = {name: value for name, value in environment.items() if name not in others}
    home = Settings.from_environment(own).raceday_home.resolve()
    with open_lock(home, "demo.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError(f"another demo is running in {home}; wait for it, or set RACEDAY_HOME") from None
        _show(console, own, home)
    _say_what_next(console)


def _show(console: Console, environment: Mapping[str, str], home: Path) -> None:
    simulation = _choose_day(datetime.now(UTC))
    console.print("[dim]starting PostgreSQL and the simulated API[/dim]")
    with open_sandbox(environment, simulation) as sandbox:
        stage = _Stage(console, sandbox, home / "demo")
        stage.execute(
            f"loading racing day {simulation.racing_day}",
            "daily_baseline",
            {"ops": {"fetch_meetings": {"config": {"racing_day": simulation.racing_day.isoformat()}}}},
        )
        # Not pooled: a connection kept here would be one less for the jobs.
        engine = create_engine(sandbox.environment["DATABASE_URL"], poolclass=NullPool)
        try:
            races = read_next_races(engine, after=simulation.first_start + timedelta(hours=2), limit=RACES)
            if len(races) < RACES:
                raise SandboxError(f"the simulated day has {len(races)} races to poll, not {RACES}")
            run_ids = _poll(stage, races)
            movers = read_movers(engine, [race.race_id for race in races], run_ids)
            for table in (build_polls_table(read_polls(engine, run_ids), races), build_movers_table(movers, races)):
                console.print()
                console.print(table)
        finally:
            engine.dispose()


def _poll(stage: _Stage, races: list[NextRace]) -> list[str]:
    assert stage.sandbox.simulator is not None
    clock = races[0].start_time - BEFORE_FIRST_START
    config = {"ops": {"select_races": {"config": {"race_ids": [race.race_id for race in races]}}}}
    run_ids = []
    for number, passed in enumerate(BETWEEN_POLLS, start=1):
        clock += passed
        stage.sandbox.simulator.set_clock(now=clock)
        title = f"poll {number} of the next {len(races)} races, {clock.astimezone(NEW_ZEALAND):%H:%M:%S} at the track"
        run_ids.append(stage.execute(title, "process_races", config))
    return run_ids


def _choose_day(now: datetime) -> Simulation:
    racing_day = now.astimezone(NEW_ZEALAND).date()
    first_start = datetime.combine(racing_day, time(11), NEW_ZEALAND).astimezone(UTC)
    return Simulation(
        seed=_SEED,
        racing_day=racing_day,
        first_start=first_start,
        database="raceday_demo",
        fresh_database=True,  # a day that has been polled to its end cannot begin again
        now=first_start - timedelta(hours=5),
    )


def _say_what_next(console: Console) -> None:
    console.print(
        "\nWhat to type next:\n"
        "  [bold]make dev[/bold]    the Dagster UI on a simulated day, at http://127.0.0.1:3000\n"
        "  [bold]make test[/bold]   the tests\n"
        "  [bold].venv/bin/raceday sandbox -- dagster job execute"
        " -m raceday_dagster.definitions -j daily_baseline[/bold]\n"
        "README.md has the rest, the real API among it.",
        soft_wrap=True,
    )
