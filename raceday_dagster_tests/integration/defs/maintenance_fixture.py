"""The job `maintenance` on a database of races and, beside it, Dagster's own storage in PostgreSQL."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from raceday_dagster_tests.integration.postgres_fixture import ask, order
from raceday_dagster_tests.integration.race_day import run_job

DAGSTER_YAML = """
storage:
  custom:
    module: raceday_dagster.dagster_plugins.storage
    class: PooledPostgresStorage
    config: {}
telemetry: {enabled: false}
"""
OPS = ("create_history_partitions", "archive_history", "remove_old_partitions", "delete_old_runs")


@dg.op
def say_something(context: dg.OpExecutionContext) -> str:
    context.log.info("something")
    return "something"


@dg.op
def fail() -> None:
    raise dg.Failure("on purpose")


@dg.op(name="select_races", config_schema={"race_ids": [str]})
def choose(context: dg.OpExecutionContext) -> str:
    return str(context.op_config)


@dg.job
def choosing_job() -> None:
    choose()


@dg.job
def quiet_job() -> None:
    say_something()


@dg.job
def failing_job() -> None:
    fail()


@dataclass(frozen=True)
class MaintenanceRuns:
    """What a test needs."""

    instance: dg.DagsterInstance
    dagster_url: str
    folder: Path
    """Of the archive."""

    def run(self, **config: Mapping[str, Any]) -> dg.JobExecutionResult:
        """One run of the job, with configs of ops."""
        return run_job(self.instance, "maintenance", **config)

    def make_run(self, job: dg.JobDefinition = quiet_job, *, ended_hours_ago: float = 0) -> str:
        """A run that really happened, with events, tags and a folder, made older."""
        result = job.execute_in_process(instance=self.instance, raise_on_error=False, tags={"made": "for a test"})
        folder = Path(self.instance.storage_directory()) / result.run_id
        (folder / "a step").mkdir(parents=True, exist_ok=True)
        (folder / "a step" / "result").write_bytes(b"pickled")
        self.make_older(result.run_id, hours=ended_hours_ago)
        return result.run_id

    def make_older(self, run_id: str, *, hours: float) -> None:
        age = f"interval '{hours} hours'"
        moments = ", ".join(f"{name}_timestamp = {name}_timestamp - {age}" for name in ("create", "update"))
        order(self.dagster_url, f"UPDATE runs SET {moments} WHERE run_id = '{run_id}'")

    def plan_run(
        self,
        job: dg.JobDefinition = quiet_job,
        *,
        status: dg.DagsterRunStatus = dg.DagsterRunStatus.QUEUED,
        **options: Any,
    ) -> str:
        """A run that nobody has begun."""
        location = RegisteredCodeLocationOrigin("location")
        origin = RemoteRepositoryOrigin(code_location_origin=location, repository_name="repository")
        return self.instance.create_run_for_job(
            job,
            status=status,
            remote_job_origin=RemoteJobOrigin(repository_origin=origin, job_name=job.name),
            **options,
        ).run_id

    def has_folder(self, run_id: str) -> bool:
        return (Path(self.instance.storage_directory()) / run_id).exists()

    def ask(self, question: str) -> object:
        """The one value that Dagster's database answers."""
        return ask(self.dagster_url, question)


@contextmanager
def open_housekeeping(
    database_url: str, dagster_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MaintenanceRuns]:
    (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    environment = {"DATABASE_URL": database_url, "DAGSTER_PG_URL": dagster_url, "ARCHIVE_DIR": str(folder / "archive")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield MaintenanceRuns(instance, dagster_url, folder / "archive")
