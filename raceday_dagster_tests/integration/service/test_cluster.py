"""Runs on several machines for real: a Redis, a PgBouncer and `raceday worker` processes, each with its own folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from raceday_dagster.dagster_plugins.machines import MACHINE_TAG
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.cluster_fixture import (
    Cluster,
    needs_servers,
    open_broker,
    open_cluster,
    open_pgbouncer,
)
from raceday_dagster_tests.integration.postgres_fixture import CONNECTION_LIMIT, make_database, open_server_folder
from raceday_dagster_tests.integration.race_day import (
    ConnectionWatch,
    RaceDay,
    daily_baseline_job,
    open_race_day,
    process_races_job,
)
from raceday_dagster_tests.waiting import wait_for

pytestmark = [needs_servers, pytest.mark.slow]
Status = dg.DagsterRunStatus


@pytest.fixture(scope="module")
def day(embedded_postgres: EmbeddedPostgres, database_url: str, home_of_all: Path) -> Iterator[RaceDay]:
    """A racing day that is loaded, in the environment of every machine; its database is behind the PgBouncer."""
    with (
        open_race_day(database_url) as day,
        open_pgbouncer(home_of_all / "pgbouncer", embedded_postgres, database_url) as pooled_url,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("DATABASE_URL", pooled_url)
        loaded = daily_baseline_job().execute_in_process(
            instance=day.instance, run_config={"ops": {"fetch_meetings": {"config": {"racing_day": "2026-09-26"}}}}
        )
        assert loaded.success
        yield day


@pytest.fixture(scope="module")
def home_of_all() -> Iterator[Path]:
    with open_server_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def all_of_it(day: RaceDay, embedded_postgres: EmbeddedPostgres, home_of_all: Path) -> Iterator[Cluster]:
    with (
        make_database(embedded_postgres) as dagster_url,
        open_broker(home_of_all) as broker,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("DAGSTER_PG_URL", dagster_url)
        environment.setenv("BROKER_URL", broker.url)
        with open_cluster(home_of_all, broker, os.environ) as cluster:
            yield cluster


def launch(cluster: Cluster, race_ids: Sequence[str]) -> str:
    """A run of ``process_races``, given to the broker."""
    run = cluster.instance.create_run_for_job(
        process_races_job(),
        run_config={"ops": {"select_races": {"config": {"race_ids": list(race_ids)}}}},
        job_code_origin=dg.reconstructable(process_races_job).get_python_origin(),
    )
    cluster.instance.launch_run(run.run_id, None)
    return run.run_id


def read_status(cluster: Cluster, run_id: str) -> dg.DagsterRunStatus:
    run = cluster.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def wait_until_ended(cluster: Cluster, run_ids: Sequence[str]) -> list[dg.DagsterRun]:
    runs = [cluster.instance.get_run_by_id(run_id) for run_id in run_ids]
    ended = wait_for(
        lambda: [
            run for run_id in run_ids if (run := cluster.instance.get_run_by_id(run_id)) is not None and run.is_finished
        ]
        if all((run := cluster.instance.get_run_by_id(run_id)) and run.is_finished for run_id in run_ids)
        else None,
        explain=lambda: [(m.name, m.log.read_text()[-3000:]) for m in cluster.machines],
    )
    del runs
    return ended


def test_thin(all_of_it: Cluster, day: RaceDay) -> None:
    cluster = all_of_it
    cluster.start_machine("one")
    (run,) = wait_until_ended(cluster, [launch(cluster, day.race_ids[:5])])
    print(cluster.machines[0].log.read_text())
    for f in (cluster.folder / "one" / "logs").iterdir():
        print(f, f.read_text()[-3000:])
    assert run.is_success
    assert run.tags[MACHINE_TAG] == "one"
