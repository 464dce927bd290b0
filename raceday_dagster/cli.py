"""The ``raceday`` command. Says what it does in a line, and what went wrong in one more.

Each command imports what it needs when it is called: ``raceday --help`` answers at once, while Dagster and
SQLAlchemy take seconds to import.
"""

from __future__ import annotations

import sys

try:
    import atexit
    import fcntl
    import gc
    import json
    import os
    import shlex
    import signal
    from collections.abc import Callable, Sequence
    from datetime import UTC, date, datetime
    from functools import partial
    from pathlib import Path
    from types import FrameType
    from typing import Any

    import click

    from raceday_dagster.bench.options import bench
    from raceday_dagster.errors import RacedayError, SandboxError
except KeyboardInterrupt:  # as click ends a command, which it does from the next line on
    sys.exit("Aborted!")


class _OneLineErrors(click.Group):
    """Shows an expected error as one line and exits with 1; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RacedayError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raceday-dagster", prog_name="raceday")
def main() -> None:
    """Follow a racing day: poll, compute where the money flows, store it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    """Being told to end, or a closed terminal, is a reason to clean up, not to drop everything."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda _number, _frame: None)  # a shell that ends says it again, amid the clean-up
    sys.exit(128 + number)


@main.command()
def demo() -> None:
    """Load a simulated racing day and poll five of its races three times, for real."""
    from raceday_dagster.sandbox.demo import run_demo

    run_demo(os.environ)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Simulated seconds per second. What is due goes by the real time.",
)
@click.option("--allow-simulated-data", is_flag=True, help="Let simulated races into the DATABASE_URL that is set.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sandbox(speed: float, allow_simulated_data: bool, command: Sequence[str]) -> None:
    """Run COMMAND with an embedded PostgreSQL and a simulated API; without COMMAND, print its environment and stay.

    What is already set in the environment is kept.
    """
    from raceday_dagster.sandbox.sandbox import choose_simulation, open_sandbox, run_command, wait_for_stop

    simulation = choose_simulation(datetime.now(UTC), speed)
    with open_sandbox(os.environ, simulation, allow_simulated_data=allow_simulated_data) as opened:
        if command:
            sys.exit(run_command(command, opened.environment))
        for name, value in opened.environment.items():
            if os.environ.get(name) != value:
                click.echo(f"export {name}={shlex.quote(value)}")
        click.echo("# ready; Ctrl-C stops it", err=True)
        wait_for_stop()


@main.command()
@click.argument("job")
@click.option("-c", "--config", type=click.Path(exists=True, dir_okay=False), help="The run's config, a YAML file.")
def run(job: str, config: str | None) -> None:
    """Run JOB once in the foreground, on DATABASE_URL and DAGSTER_PG_URL. Exits with 1 when the run fails.

    It is `dagster job execute` in the instance that `raceday up` works in, whatever folder it is called from.
    """
    from raceday_dagster.defs.jobs import JOBS
    from raceday_dagster.service.dagster_instance import open_instance
    from raceday_dagster.service.environment import open_environment
    from raceday_dagster.settings import Settings

    if job not in (names := [known.name for known in JOBS]):
        raise click.ClickException(f"there is no job {job!r}: the jobs are {', '.join(names)}")
    Settings.from_environment().require_database_url()  # without it a service gets a sandbox
    with open_environment(os.environ, datetime.now(UTC)) as opened, open_instance(opened.variables):
        chosen = ("-c", config) if config else ()
    command = (sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute")  # which warns that it has a successor
    arguments = [*command, "-m", "raceday_dagster.definitions", "-j", job, *chosen]
    os.execve(sys.executable, arguments, opened.variables)  # noqa: S606


@main.command()
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65_535), help="Port of the web UI.")
@click.option("--read-only", is_flag=True, help="A UI that launches nothing and switches nothing on or off.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the web UI.")
@click.option("--expose", is_flag=True, help="Allow a --host that other machines reach. There is no login.")
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A host name the UI answers to, too.")
@click.option(
    "--feed-latency-ms", type=click.IntRange(min=0), help="Sandbox only: added to every simulated answer for a race."
)
def up(feed_latency_ms: int | None, **options: Any) -> None:
    """Follow the racing day unattended: run server, code server, daemon and web UI, until Ctrl-C.

    Runs on a sandbox, or with DATABASE_URL and DAGSTER_PG_URL set on those and the real API.
    """
    from raceday_dagster.service.console import printing_to
    from raceday_dagster.service.parts import Web
    from raceday_dagster.service.up import run_up

    # The interpreter's last look for garbage goes through all that Dagster imported: a second, five under load.
    atexit.register(gc.freeze)
    with printing_to(sys.stdout.fileno(), sys.stdout.encoding) as say:
        run_up(Web(**options), os.environ, say, feed_latency_ms=feed_latency_ms)


@main.command()
@click.option("--runs", default=2, show_default=True, type=click.IntRange(2, 64), help="Runs at once on this machine.")
@click.option("--name", help="Of this machine in the cluster; by default its host name.")
def worker(runs: int, name: str | None) -> None:
    """Execute runs of a cluster on this machine until Ctrl-C (see docs/cluster.md).

    Needs BROKER_URL, DATABASE_URL and DAGSTER_PG_URL, those of the machine where `raceday up` runs.
    """
    import socket

    from raceday_dagster.service.console import printing_to
    from raceday_dagster.service.worker import run_worker

    with printing_to(sys.stdout.fileno(), sys.stdout.encoding) as say:
        run_worker(name or socket.gethostname(), runs, os.environ, say)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def health(*, as_json: bool) -> None:
    """Say whether the service does its work: a line for each check. Exits with 1 when one fails."""
    from raceday_dagster.service.health import check_health, describe_health, is_healthy

    checks = check_health(os.environ, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(describe_health(checks)))
    else:
        for check in checks:
            click.echo(check)
    sys.exit(0 if is_healthy(checks) else 1)


@main.command()
@click.argument("race_or_day")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option(
    "--format", "kind", type=click.Choice(["html", "csv", "parquet"]), help="By default what FILE ends with, or html."
)
def report(race_or_day: str, output: Path | None, kind: Any) -> None:
    """Write the page of a race (its id) or a racing day (2026-01-31) to one file, or the table behind it.

    Reads DATABASE_URL, or without it the database of the `raceday up` that runs in RACEDAY_HOME.
    """
    from raceday_dagster.market.report import write_report
    from raceday_dagster.service.service_files import read_state
    from raceday_dagster.settings import Settings

    settings = Settings.from_environment()
    if settings.database_url is None and (state := read_state(_home())) is not None:
        settings = Settings.from_environment(state.environment)
    click.echo(write_report(race_or_day, settings.require_database_url(), output=output, kind=kind))


@main.command()
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65_535), help="Port on 127.0.0.1; 0 is any free one."
)
@click.option("--seed", type=int, help="Another seed, another day.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Simulated seconds per second; 0 stands still.",
)
@click.option(
    "--latency-ms", default=0, show_default=True, type=click.IntRange(min=0), help="Added to every answer for a race."
)
@click.option("--racing-day", type=click.DateTime(["%Y-%m-%d"]), help="The day's label.")
def simulate(port: int, seed: int | None, speed: float, latency_ms: int, racing_day: datetime | None) -> None:
    """Serve the simulated NZ TAB API on 127.0.0.1 until Ctrl-C."""
    from raceday_dagster.sandbox.sandbox import choose_simulation
    from raceday_dagster.simulator.server import serve

    chosen = choose_simulation(datetime.now(UTC), speed)
    day: date = racing_day.date() if racing_day else chosen.racing_day
    try:
        serve(
            port=port,
            seed=chosen.seed if seed is None else seed,
            racing_day=day,
            first_start=None if racing_day else chosen.first_start,
            now=None if racing_day else datetime.now(UTC),
            speed=speed,
            latency_ms=latency_ms,
            announce=lambda url: click.echo(f"export NZTAB_API_URL={url}"),
        )
    except OSError as error:
        raise SandboxError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error


@main.command()
@click.argument("path", nargs=-1)
@click.option("--silks", is_flag=True, help="The racing day's silks that were never described, from DATABASE_URL.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="With --silks: at most so many.")
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Write what stock sites take.")
@click.option("--max-concurrent", default=5, show_default=True, type=click.IntRange(1, 50), help="Images at once.")
@click.option(
    "--timeout-s", default=30.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds for an image."
)
@click.option("--retries", default=1, show_default=True, type=click.IntRange(0, 10), help="Tries after the first.")
def images(path: tuple[str, ...], silks: bool, limit: int, **options: Any) -> None:
    """Describe images (files, folders, URLs) with a vision API. Exits with 1 when one fails.

    With --silks the images are those that the runners of the racing day wear, and their descriptions are stored.
    """
    from raceday_dagster.images.command import run_images

    if silks == bool(path):
        raise click.UsageError("name images, or say --silks")
    describe: Callable[..., int] = partial(run_images, **options)
    sys.exit(_describe_silks(describe, limit) if silks else describe(path))


def _describe_silks(describe: Callable[..., int], limit: int) -> int:
    from rich.console import Console

    from raceday_dagster.defs.resources import open_race_store
    from raceday_dagster.defs.silks import StoredDescriptions, find_silk_sources
    from raceday_dagster.errors import ImagesError
    from raceday_dagster.racing.calendar import choose_current_racing_day
    from raceday_dagster.sandbox.demo import load_simulated_day
    from raceday_dagster.settings import Settings, is_on_this_machine
    from raceday_dagster.store.queries import is_listed

    settings = Settings.from_environment()
    racing_day = choose_current_racing_day(datetime.now(UTC))
    with open_race_store(settings) as race_store:
        if not race_store.read(is_listed, racing_day):
            if not is_on_this_machine(settings.nztab_api_url):
                raise ImagesError(f"racing day {racing_day} is not loaded: run `raceday run daily_baseline` first")
            load_simulated_day(Console(stderr=True), os.environ, _home(), racing_day)
        sources = find_silk_sources(race_store, settings, racing_day, limit=limit)
        if not sources:
            click.echo(f"no silk of racing day {racing_day} is without a description")
            return 0
        return describe(sources, descriptions=StoredDescriptions(race_store))


main.add_command(bench)


@main.group()
def db() -> None:
    """The embedded PostgreSQL server, and the schema of any database."""


@db.command()
def start() -> None:
    """Start the embedded server, keep it running, and print where it is."""
    from raceday_dagster.sandbox.postgres import EmbeddedPostgres, build_libpq_url
    from raceday_dagster.sandbox.sandbox import kept_mark, open_lock
    from raceday_dagster.settings import Settings

    settings = Settings.from_environment()
    home = settings.raceday_home.resolve()
    server = EmbeddedPostgres(home)
    with open_lock(home) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # a sandbox that ends meanwhile leaves the server alone
        server.start()
        kept_mark(home).touch()
    url = server.create_database("raceday", owner="raceday", connection_limit=settings.db_pool_max)
    for name, made in (("DATABASE_URL", url), ("DAGSTER_PG_URL", server.create_dagster_database())):
        click.echo(f"export {name}={shlex.quote(build_libpq_url(made))}")


@db.command()
def stop() -> None:
    """Stop the embedded server."""
    from raceday_dagster.sandbox.postgres import EmbeddedPostgres
    from raceday_dagster.sandbox.sandbox import IN_USE, hold_alone, kept_mark

    home = _home()
    busy = SandboxError(f"a sandbox is running in {home} and needs the server; end it first")
    with hold_alone(home, IN_USE, busy):
        EmbeddedPostgres(home).stop()
        kept_mark(home).unlink(missing_ok=True)


@db.command()
def status() -> None:
    """Say whether the embedded server runs, and where its data is. Exits with 3 when it does not run."""
    from raceday_dagster.sandbox.postgres import EmbeddedPostgres

    found = EmbeddedPostgres(_home()).status()
    click.echo(f"{'running, pid ' + str(found.pid) if found.running else 'stopped'}; data in {found.data_dir}")
    sys.exit(0 if found.running else 3)


@db.command(name="upgrade")
def upgrade_schema() -> None:
    """Bring the schema of DATABASE_URL up to date; safe to run twice, and by two at once."""
    from raceday_dagster.sandbox.sandbox import find_instance_config
    from raceday_dagster.settings import Settings
    from raceday_dagster.store.schema.migrations import upgrade

    report = upgrade(Settings.from_environment().require_database_url().get_secret_value())
    before = report.from_revision or "empty"
    same = report.from_revision == report.to_revision
    click.echo(f"schema is at {report.to_revision}" + ("" if same else f" (was {before})"))
    if not os.environ.get("DAGSTER_HOME"):
        click.echo(
            "DAGSTER_HOME is not set: `raceday run JOB` and `raceday up` bring their own; Dagster's commands need it, "
            f"the absolute path of a folder with a copy of {find_instance_config()}",
            err=True,
        )


def _home() -> Path:
    from raceday_dagster.settings import Settings

    return Settings.from_environment().raceday_home.resolve()


if __name__ == "__main__":
    main()
