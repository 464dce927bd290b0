"""Runs on several machines for real: a Redis, a PgBouncer and `raceday worker` processes, each with its own folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import psutil
import pytest
import yaml
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from sqlalchemy import NullPool, create_engine, make_url

from benchmarks.cluster import launch as launch_races
from benchmarks.cluster_servers import (
    Cluster,
    Machine,
    find_missing_server,
    open_broker,
    open_cluster,
    open_pgbouncer,
)
from benchmarks.live_day import HALF_RACES
from raceday_dagster.dagster_plugins.forked_process import SOCKET
from raceday_dagster.dagster_plugins.machines import DEAD_AFTER, MACHINE_TAG, is_lost, read_machines
from raceday_dagster.errors import RacedayError, ServiceError
from raceday_dagster.sandbox.postgres import DAGSTER_CONNECTION_LIMIT, EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import find_instance_config
from raceday_dagster.service.parts import answers_run_server
from raceday_dagster.service.worker import run_worker
from raceday_dagster_tests.integration.commands import find_free_port
from raceday_dagster_tests.integration.postgres_fixture import CONNECTION_LIMIT
from raceday_dagster_tests.integration.race_day import ConnectionWatch, RaceDay, open_race_day
from raceday_dagster_tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(find_missing_server() is not None, reason=find_missing_server() or ""),
    pytest.mark.slow,
]
Status = dg.DagsterRunStatus
NAMES = ("kea", "tui")
ONE_SLOT = 5


@pytest.fixture(scope="module")
def day(embedded_postgres: EmbeddedPostgres, database_url: str, shared_home: Path) -> Iterator[RaceDay]:
    """A racing day in the environment of every machine, with its database behind a PgBouncer."""
    with (
        open_race_day(database_url) as day,
        open_pgbouncer(shared_home / "pgbouncer", embedded_postgres, database_url) as pooled_url,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("DATABASE_URL", pooled_url)
        # The pooler has every connection of the role; what the tests ask goes by it.
        superuser = make_url(embedded_postgres.superuser_url()).set(database=make_url(database_url).database)
        yield replace(day, engine=create_engine(superuser, poolclass=NullPool))


@pytest.fixture(scope="module")
def all_machines(day: RaceDay, embedded_postgres: EmbeddedPostgres, shared_home: Path) -> Iterator[Cluster]:
    """Two machines that take one run at a time."""
    dagster_url = embedded_postgres.create_database(
        "cluster", owner="dagster", connection_limit=DAGSTER_CONNECTION_LIMIT, synchronous_commit=False
    )
    with (
        open_broker(shared_home) as broker,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("DAGSTER_PG_URL", dagster_url)
        environment.setenv("BROKER_URL", broker.url)
        with open_cluster(shared_home, broker, os.environ) as cluster:
            cluster.start_machines(*NAMES)
            yield cluster
    embedded_postgres.drop_database("cluster")


@pytest.fixture
def cluster(all_machines: Cluster, day: RaceDay) -> Iterator[Cluster]:
    """The machines, all of them at work, and no fault left at the end."""
    all_machines.start_machines(*(name for name in NAMES if name not in all_machines.machines))
    yield all_machines
    day.simulator.clear_faults()


def launch(cluster: Cluster, race_ids: Sequence[str]) -> str:
    """A run of `process_races`, given to the broker."""
    return launch_races(cluster.instance, race_ids)


def read_run(cluster: Cluster, run_id: str) -> dg.DagsterRun:
    run = cluster.instance.get_run_by_id(run_id)
    assert run is not None
    return run


def wait_for_runs(cluster: Cluster, run_ids: Sequence[str]) -> list[str]:
    """The machine of each run, when all have succeeded."""

    def find_ended() -> list[dg.DagsterRun] | None:
        runs = [read_run(cluster, run_id) for run_id in run_ids]
        return runs if all(run.is_finished for run in runs) else None

    runs = wait_for(find_ended, explain=cluster.read_logs)
    assert [run.status for run in runs] == [Status.SUCCESS] * len(runs), cluster.read_logs()
    return [run.tags[MACHINE_TAG] for run in runs]


def launch_held(cluster: Cluster, day: RaceDay, race_ids: Sequence[str]) -> tuple[str, Machine]:
    """A run that waits for the API's answers, and the machine that has it."""
    rule = day.simulator.add_fault("/racing/events/", "hold", timeout_s=60.0)
    run_id = launch(cluster, race_ids)
    wait_for(lambda: day.simulator.fired(rule) >= min(5, len(race_ids)), explain=cluster.read_logs)
    return run_id, cluster.machines[read_run(cluster, run_id).tags[MACHINE_TAG]]


def monitor(cluster: Cluster, run_id: str) -> dg.DagsterRunStatus:
    """What Dagster's daemon does every `poll_interval_seconds` for a run that has begun; the status it then has."""
    record = cluster.instance.get_run_record_by_id(run_id)
    assert record is not None
    if record.dagster_run.status is Status.STARTED:
        monitor_started_run(cluster.instance, cast("Any", None), record, logging.getLogger("tests"))
    return read_run(cluster, run_id).status


def read_end(cluster: Cluster, run_id: str) -> str:
    """Why a run failed."""
    events = [entry.dagster_event for entry in cluster.instance.all_logs(run_id) if entry.dagster_event is not None]
    return next(event.message or "" for event in events if event.event_type is dg.DagsterEventType.PIPELINE_FAILURE)


def test_machines_share_the_runs_poll_each_race_once_and_keep_to_the_ceiling_of_connections(
    cluster: Cluster, day: RaceDay, embedded_postgres: EmbeddedPostgres
) -> None:
    shards = [day.race_ids[number::12] for number in range(12)]
    run_ids = [launch(cluster, shard) for shard in shards]
    with ConnectionWatch(embedded_postgres) as watch:
        machines = wait_for_runs(cluster, run_ids)
    assert set(machines) == set(NAMES)
    for run_id, shard in zip(run_ids, shards, strict=True):
        polls = day.read_polls(run_id)
        assert sorted(polls) == sorted(shard)
        assert {poll["status"] for poll in polls.values()} == {"success"}
    assert 1 < max(watch.samples) <= CONNECTION_LIMIT
    assert cluster.broker.count_waiting() == 0


def test_a_run_of_a_dead_machine_fails_and_another_machine_polls_its_races(cluster: Cluster, day: RaceDay) -> None:
    race_ids = day.race_ids[:ONE_SLOT]
    run_id, machine = launch_held(cluster, day, race_ids)
    assert monitor(cluster, run_id) is Status.STARTED
    died_at = datetime.now(UTC)
    cluster.kill(machine)
    wait_for(lambda: monitor(cluster, run_id) is Status.FAILURE, explain=cluster.read_logs)
    last_seen = read_machines(cluster.instance)[machine.name].seen_at
    assert f"machine {machine.name} of this run gives no sign of life" in read_end(cluster, run_id)
    assert last_seen < died_at
    assert day.read_polls(run_id) == {}
    day.simulator.clear_faults()
    (other,) = wait_for_runs(cluster, [launch(cluster, race_ids)])
    assert other != machine.name
    assert day.ask(HALF_RACES) == []


def test_the_sensor_sees_a_dead_machine_before_anybody_has_marked_its_runs(cluster: Cluster, day: RaceDay) -> None:
    run_id, machine = launch_held(cluster, day, day.race_ids[:1])
    run, seen = read_run(cluster, run_id), read_machines(cluster.instance)
    at = seen[machine.name].seen_at
    assert not is_lost(run, seen, at + DEAD_AFTER / 2)
    assert is_lost(run, seen, at + DEAD_AFTER)
    day.simulator.clear_faults()
    day.simulator.release()
    wait_for_runs(cluster, [run_id])


def test_a_machine_that_is_back_at_once_ends_the_runs_of_its_former_life(cluster: Cluster, day: RaceDay) -> None:
    run_id, machine = launch_held(cluster, day, day.race_ids[:1])
    cluster.kill(machine)
    cluster.start_machines(machine.name)
    assert read_run(cluster, run_id).status is Status.FAILURE
    assert read_end(cluster, run_id) == f"Machine {machine.name} of this run has been started again."
    assert "1 runs that this machine had" in machine.read_log()


def test_a_dead_run_is_failed_within_45_seconds_by_what_the_instance_is_set_to() -> None:
    monitoring = yaml.safe_load(find_instance_config(of_cluster=True).read_text(encoding="utf-8"))["run_monitoring"]
    assert DEAD_AFTER + timedelta(seconds=monitoring["poll_interval_seconds"]) < timedelta(seconds=45)
    assert monitoring["start_timeout_seconds"] + monitoring["poll_interval_seconds"] < 45


def test_a_run_that_dies_with_its_run_server_is_failed_by_its_machine(cluster: Cluster, day: RaceDay) -> None:
    run_id, machine = launch_held(cluster, day, day.race_ids[:1])
    (server,) = (child for child in machine.process.children() if "run_server" in " ".join(child.cmdline()))
    for process in (server, *server.children(recursive=True)):
        process.kill()
    wait_for(lambda: read_run(cluster, run_id).status is Status.FAILURE, explain=cluster.read_logs)
    assert read_end(cluster, run_id) == f"The process of this run on machine {machine.name} is gone."
    wait_for(lambda: answers_run_server(machine.home / "dagster" / SOCKET))
    day.simulator.clear_faults()
    wait_for_runs(cluster, [launch(cluster, day.race_ids[:1]) for _each in NAMES])


def test_a_run_is_terminated_from_the_machine_that_launched_it(cluster: Cluster, day: RaceDay) -> None:
    run_id, _machine = launch_held(cluster, day, day.race_ids[:ONE_SLOT])
    assert cluster.instance.run_launcher.terminate(run_id)
    day.simulator.release()
    wait_for(lambda: read_run(cluster, run_id).status is Status.CANCELED, explain=cluster.read_logs)
    assert not cluster.instance.run_launcher.terminate(run_id)


def test_a_broker_that_is_away_refuses_in_one_line_and_one_that_is_back_is_used_again(
    cluster: Cluster, day: RaceDay
) -> None:
    cluster.broker.stop()
    with pytest.raises(dg.DagsterError, match=r"^BROKER_URL: the broker does not take the run: [^\n]*$"):
        launch(cluster, day.race_ids[:1])
    (failed,) = cluster.instance.get_runs(limit=1)
    assert failed.status is Status.FAILURE
    cluster.broker.start()
    wait_for_runs(cluster, [launch(cluster, day.race_ids[:1]) for _each in NAMES])


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("BROKER_URL", "BROKER_URL is not set: a worker takes runs from a broker"),
        ("DATABASE_URL", "DATABASE_URL is not set"),
        ("DAGSTER_PG_URL", "DATABASE_URL is set and DAGSTER_PG_URL is not"),
    ],
)
def test_a_worker_refuses_to_start_without_what_it_needs(
    tmp_path: Path, all_machines: Cluster, missing: str, said: str
) -> None:
    given = {name: value for name, value in all_machines.environment.items() if name != missing}
    with pytest.raises(RacedayError, match=said):
        run_worker("moa", 2, {**given, "RACEDAY_HOME": str(tmp_path)}, print)


def test_a_worker_refuses_the_name_and_the_home_of_another_and_a_broker_that_is_away(
    all_machines: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, home = {"RACEDAY_HOME": str(tmp_path)}, {"RACEDAY_HOME": str(all_machines.machines["kea"].home)}
    with pytest.raises(ServiceError, match="another machine of this cluster is called kea"):
        run_worker("kea", 2, {**all_machines.environment, **own}, print)
    with pytest.raises(ServiceError, match="stop it first, or set RACEDAY_HOME"):
        run_worker("moa", 2, {**all_machines.environment, **home}, print)
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{find_free_port()}/0")
    with pytest.raises(ServiceError, match=r"^BROKER_URL: the broker cannot be reached: .*refused"):
        run_worker("moa", 2, {**os.environ, **own}, print)


def test_what_nobody_took_in_time_is_no_backlog_for_a_machine_that_joins(cluster: Cluster, day: RaceDay) -> None:
    family = [process for each in cluster.machines.values() for process in each.process.children(recursive=True)]
    for machine in list(cluster.machines.values()):
        cluster.stop(machine)
    assert all(each.has_left for each in read_machines(cluster.instance).values())
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    late = [launch(cluster, day.race_ids[:ONE_SLOT]) for _slot in range(3)]
    assert cluster.broker.count_waiting() == len(late)
    assert {read_run(cluster, run_id).status for run_id in late} == {Status.STARTING}
    for run_id in late:  # as Dagster's monitoring does after `start_timeout_seconds`
        cluster.instance.report_run_failed(read_run(cluster, run_id))
    cluster.start_machines("tui")
    wait_for_runs(cluster, [launch(cluster, day.race_ids[:ONE_SLOT])])
    assert cluster.broker.count_waiting() == 0
    assert [day.read_polls(run_id) for run_id in late] == [{}, {}, {}]
    assert cluster.read_logs().count("run_not_taken") == len(late)
