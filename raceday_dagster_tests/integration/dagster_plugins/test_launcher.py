"""The launcher for real: a code server process, runs in processes of their own, Dagster's storage on PostgreSQL."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from raceday_dagster.dagster_plugins import launcher
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.postmaster import wait_for
from raceday_dagster_tests.integration.dagster_plugins.launcher_yard import SOON_S, Yard, open_yard
from raceday_dagster_tests.integration.postgres_fixture import make_database
from raceday_dagster_tests.integration.race_day import open_race_day

DAGSTER_YAML = Path(__file__).parents[3] / "dagster.yaml"
STOPS_WITHIN_S = (
    launcher.FINISH_WITHIN_S + launcher.CANCEL_WITHIN_S + launcher.CLEAR_WITHIN_S + launcher.EXIT_WITHIN_S + 2.0
)
Status = dg.DagsterRunStatus


@pytest.fixture(scope="module")
def url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for Dagster."""
    with make_database(embedded_postgres) as url:
        yield url


@pytest.fixture(scope="module")
def instance(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Configured as ours is."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(DAGSTER_YAML.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_PG_URL", url)
        environment.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance


@pytest.fixture(scope="module")
def shared(instance: dg.DagsterInstance, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A code server for tests that leave it running."""
    with open_yard(instance, url, tmp_path_factory.mktemp("yard")) as yard:
        yield yard


@pytest.fixture
def yard(shared: Yard) -> Iterator[Yard]:
    """That server, with no run on it at either end."""
    shared.go.unlink(missing_ok=True)
    before = shared.count_backends()
    yield shared
    shared.go.touch()
    for record in shared.instance.get_runs(dg.RunsFilter(statuses=[Status.STARTED, Status.STARTING, Status.CANCELING])):
        shared.wait_until_ended(record.run_id)
    assert wait_for(lambda: shared.count_backends() <= before, SOON_S), "a connection is left"


def test_a_live_run_is_a_fork_of_the_warm_server_and_can_be_terminated(yard: Yard) -> None:
    run_id = yard.start_waiting()
    worker = yard.find_worker(run_id)
    assert worker.parent() == yard.find_fork_server()
    assert worker.cmdline() == yard.find_fork_server().cmdline(), "a fork, and no new program"
    assert yard.instance.run_coordinator.cancel_run(run_id)
    assert yard.wait_until_ended(run_id) is Status.CANCELED
    assert wait_for(lambda: yard.has_worker_left(run_id), SOON_S)


def test_a_run_that_is_killed_has_failed_within_moments(yard: Yard) -> None:
    run_id = yard.start_waiting()
    yard.find_worker(run_id).kill()
    assert yard.wait_until_ended(run_id) is Status.FAILURE
    assert "-9" in str(yard.read_events(run_id)) or "signal 9" in str(yard.read_events(run_id))


def test_a_fork_server_that_dies_takes_no_run_with_it_and_comes_back(yard: Yard) -> None:
    before = yard.find_fork_server()
    survivor = yard.start_waiting()
    before.kill()
    assert wait_for(lambda: not before.is_running() or before.status() == "zombie", SOON_S)
    victim = yard.start_waiting()
    after = yard.find_fork_server()
    assert after != before
    assert yard.find_worker(victim).parent() == after
    # The server looks after its runs in one go: when it has seen this one, it has looked at the other.
    yard.find_worker(victim).kill()
    assert yard.wait_until_ended(victim) is Status.FAILURE
    assert yard.read_status(survivor) is Status.STARTED
    yard.find_worker(survivor).kill()
    assert yard.wait_until_ended(survivor) is Status.FAILURE


def test_other_runs_wait_for_the_queue_which_starts_one_beside_the_live_lane(yard: Yard) -> None:
    live = yard.start_waiting()
    queued = [yard.create_waiting(live=False) for _ in range(3)]
    for run_id in queued:
        yard.submit(run_id)
        assert yard.read_status(run_id) is Status.QUEUED
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        for _ in range(2):
            list(daemon.run_iteration(yard.workspace))
    first, *others = (yard.read_status(run_id) for run_id in queued)
    assert first in {Status.STARTING, Status.STARTED}
    assert others == [Status.QUEUED, Status.QUEUED]
    for run_id in queued[1:]:
        assert yard.instance.run_coordinator.cancel_run(run_id)
        assert yard.read_status(run_id) is Status.CANCELED
    assert yard.read_status(live) is Status.STARTED
    yard.go.touch()
    assert [yard.wait_until_ended(run_id) for run_id in (live, queued[0])] == [Status.SUCCESS] * 2


def test_a_server_told_to_stop_lets_a_short_run_finish_and_a_run_after_that_fails_with_the_reason(
    instance: dg.DagsterInstance, url: str, tmp_path: Path
) -> None:
    with open_yard(instance, url, tmp_path / "y") as yard:
        short, late = yard.start_waiting(), yard.create_waiting()
        yard.server.send_signal(signal.SIGTERM)
        yard.go.touch()
        assert yard.server.wait(STOPS_WITHIN_S) == 0
        assert yard.read_status(short) is Status.SUCCESS
        with pytest.raises(dg.DagsterError):
            yard.submit(late)
        assert yard.read_status(late) is Status.FAILURE
        assert "Could not reach user code server" in yard.read_events(late)["ENGINE_EVENT"]


def test_a_server_told_to_stop_cancels_what_hangs_and_kills_what_does_not_listen(
    instance: dg.DagsterInstance, url: str, tmp_path: Path
) -> None:
    with open_yard(instance, url, tmp_path / "y") as yard:
        hanging, deaf, suspended = yard.start_waiting(), yard.start_waiting(deaf=True), yard.start_waiting()
        yard.find_worker(suspended).suspend()
        began_s = time.monotonic()
        yard.server.send_signal(signal.SIGTERM)
        assert yard.server.wait(STOPS_WITHIN_S) == 0
        assert time.monotonic() - began_s > launcher.FINISH_WITHIN_S, "it waited for neither"
        assert yard.read_status(hanging) is Status.CANCELED
        assert [yard.read_status(run_id) for run_id in (deaf, suspended)] == [Status.FAILURE] * 2
        assert all(yard.has_worker_left(run_id) for run_id in (hanging, deaf, suspended))


def test_the_command_serves_our_definitions_and_a_live_batch_of_races_goes_through(
    instance: dg.DagsterInstance, url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("-m", "raceday_dagster.dagster_plugins.launcher")
    with (
        open_race_day(database_url, tmp_path, monkeypatch) as day,
        open_yard(instance, url, tmp_path / "y", command, launcher.LOCATION) as yard,
    ):
        races = day.race_ids[:2]
        run_id = yard.create("process_races", {"ops": {"select_races": {"config": {"race_ids": races}}}})
        yard.submit(run_id)
        assert yard.wait_until_ended(run_id) is Status.SUCCESS
        assert set(day.read_polls(run_id)) == set(races)
        yard.server.send_signal(signal.SIGTERM)
        assert yard.server.wait(STOPS_WITHIN_S) == 0
        said = yard.log.read_text()
        assert "RuntimeWarning" not in said, "workers run the main module again"
        assert "leaked" not in said
