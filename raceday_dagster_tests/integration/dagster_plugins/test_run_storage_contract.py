"""What Dagster promises of runs, backfills, heartbeats and ticks, asked of its own storage and of ours alike."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import (
    DagsterRunAlreadyExists,
    DagsterRunNotFoundError,
    DagsterSnapshotDoesNotExist,
)
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.snap import create_execution_plan_snapshot_id
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, PARTITION_NAME_TAG, ROOT_RUN_ID_TAG
from dagster._daemon.types import DaemonHeartbeat

from raceday_dagster_tests.integration.dagster_plugins.executor_jobs import doubling_job
from raceday_dagster_tests.integration.dagster_plugins.storage_contract_fixture import (
    REPOSITORY,
    Kind,
    add_run,
    instance,
    opened_instance,
    say,
)

__all__ = ["instance", "opened_instance"]
pytestmark = pytest.mark.parametrize("opened_instance", ["stock", "pooled"], indirect=True, scope="module")

Status = dg.DagsterRunStatus
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


# Runs.


def test_a_run_is_found_under_its_id_and_added_once(instance: dg.DagsterInstance) -> None:
    runs = instance.run_storage
    run = add_run(instance, tags={"a": "b"}, run_config={"ops": {"é": {"config": '"\\'}}})
    assert runs.has_run(run.run_id)
    assert instance.get_run_by_id(run.run_id) == run
    assert not runs.has_run("another")
    assert instance.get_run_by_id("another") is None
    with pytest.raises(DagsterRunAlreadyExists):
        runs.add_run(run)
    assert runs.get_runs_count() == 1


def test_a_run_of_a_job_nobody_has_seen_is_refused(instance: dg.DagsterInstance) -> None:
    with pytest.raises(DagsterSnapshotDoesNotExist):
        add_run(instance, job_snapshot_id="unknown")
    assert instance.run_storage.get_runs_count() == 0


def _add_five(instance: dg.DagsterInstance) -> dict[str, str]:
    """Add five runs; return the letter of each id."""
    given: list[dict[str, Any]] = [
        {"job_name": "one", "tags": {"lane": "live", "n": "1"}, "status": Status.SUCCESS},
        {"job_name": "one", "tags": {"lane": "live", "n": "2"}, "status": Status.FAILURE},
        {"job_name": "two", "tags": {"lane": "slow"}, "status": Status.STARTED},
        {"job_name": "two", "tags": {}, "status": Status.STARTING},
        {"job_name": "three", "tags": {"lane": "other_live"}, "status": Status.CANCELED},
    ]
    return {add_run(instance, **fields).run_id: letter for letter, fields in zip("abcde", given, strict=True)}


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "edcba"),
    ({"job_name": "one"}, "ba"),
    ({"job_name": "on"}, ""),
    ({"statuses": [Status.STARTED, Status.STARTING]}, "dc"),
    ({"tags": {"lane": "live"}}, "ba"),
    ({"tags": {"lane": ["live", "slow"]}}, "cba"),
    ({"tags": {"lane": "live", "n": "2"}}, "b"),
    ({"tags": {"lane": "slow", "n": "2"}}, ""),
    ({"tags": {"lane": "live"}, "job_name": "two"}, ""),
    ({"tags": {"lane": ["live", "slow"]}, "statuses": [Status.SUCCESS, Status.STARTED]}, "ca"),
    ({"created_after": LONG_AGO}, "edcba"),
    ({"created_before": LONG_AGO}, ""),
    ({"updated_before": LONG_AGO}, ""),
    ({"updated_after": LONG_AGO, "job_name": "three"}, "e"),
    ({"snapshot_id": "unknown"}, ""),
]


def test_a_filter_finds_its_runs_newest_first(instance: dg.DagsterInstance) -> None:
    letters, runs = _add_five(instance), instance.run_storage

    def spell(ids: Iterable[str]) -> str:
        return "".join(letters[run_id] for run_id in ids)

    for fields, found in FILTERS:
        wanted = dg.RunsFilter(**fields)
        assert spell(run.run_id for run in runs.get_runs(wanted)) == found, fields
        assert spell(runs.get_run_ids(wanted)) == found, fields
        assert spell(run.run_id for run in runs.get_runs(wanted, ascending=True)) == found[::-1], fields
        assert spell(record.dagster_run.run_id for record in runs.get_run_records(wanted)) == found, fields
        assert runs.get_runs_count(wanted) == len(found), fields


def test_pages_of_runs_follow_one_another(instance: dg.DagsterInstance) -> None:
    letters, runs = _add_five(instance), instance.run_storage
    ids = dict(zip(letters.values(), letters, strict=True))

    def page(cursor: str | None, **asked: Any) -> str:
        return "".join(letters[run.run_id] for run in runs.get_runs(cursor=cursor and ids[cursor], **asked))

    assert page(None, limit=2) == "ed"
    assert page("d", limit=2) == "cb"
    assert page("b", limit=2) == "a"
    assert page("b", limit=2, ascending=True) == "cd"
    assert page("c", filters=dg.RunsFilter(job_name="one")) == "ba"
    assert page("e", limit=9, filters=dg.RunsFilter(run_ids=[ids["a"], ids["e"]])) == "a"
    assert [letters[run_id] for run_id in runs.get_run_ids(cursor=ids["c"], limit=1)] == ["b"]


def test_tags_are_added_replaced_and_listed(instance: dg.DagsterInstance) -> None:
    letters, runs = _add_five(instance), instance.run_storage
    last = next(run_id for run_id, letter in letters.items() if letter == "d")
    runs.add_run_tags(last, {"lane": "late", "new": "ä"})
    runs.add_run_tags(last, {"lane": "later"})
    assert instance.get_run_by_id(last).tags == {"lane": "later", "new": "ä"}
    assert runs.get_run_ids(dg.RunsFilter(tags={"lane": "later", "new": "ä"})) == [last]
    assert runs.get_run_ids(dg.RunsFilter(tags={"lane": "late"})) == []
    assert set(runs.get_run_tag_keys()) == {"lane", "n", "new"}
    assert dict(runs.get_run_tags(["lane"])) == {"lane": {"live", "slow", "other_live", "later"}}
    assert dict(runs.get_run_tags(["lane"], value_prefix="l")) == {"lane": {"live", "later"}}
    assert dict(runs.get_run_tags(["lane"], limit=2)) == {"lane": {"later", "live"}}
    assert runs.get_run_tags(["unknown"]) == []


STATUSES = [
    ([], Status.NOT_STARTED),
    ([Kind.RUN_STARTING], Status.STARTING),
    ([Kind.RUN_START], Status.STARTED),
    ([Kind.RUN_START, Kind.RUN_SUCCESS], Status.SUCCESS),
    ([Kind.RUN_START, Kind.RUN_FAILURE], Status.FAILURE),
    ([Kind.RUN_START, Kind.RUN_CANCELING], Status.CANCELING),
    ([Kind.RUN_START, Kind.RUN_CANCELING, Kind.RUN_CANCELED], Status.CANCELED),
    ([Kind.STEP_START], Status.NOT_STARTED),
]
ENDS = (Kind.RUN_SUCCESS, Kind.RUN_FAILURE, Kind.RUN_CANCELED)


def test_what_is_said_of_a_run_is_its_status_with_its_times(instance: dg.DagsterInstance) -> None:
    for kinds, status in STATUSES:
        run = add_run(instance)
        (before,) = instance.get_run_records(limit=1)
        said = {kind: say(instance, run, kind, step="step" if kind is Kind.STEP_START else None) for kind in kinds}
        (record,) = instance.get_run_records(limit=1)
        assert record.dagster_run.status is status
        assert record.start_time == said.get(Kind.RUN_START), kinds
        assert record.end_time == next((said[kind] for kind in kinds if kind in ENDS), None), kinds
        assert record.create_timestamp == before.create_timestamp
        of_run = [said[kind] for kind in kinds if kind is not Kind.STEP_START] or [before.update_timestamp.timestamp()]
        assert record.update_timestamp.timestamp() == of_run[-1], kinds
    assert instance.get_runs_count(dg.RunsFilter(statuses=[Status.NOT_STARTED])) == 2


def test_records_are_ordered_by_what_was_asked(instance: dg.DagsterInstance) -> None:
    first, second = add_run(instance), add_run(instance)
    say(instance, second, Kind.RUN_START)
    say(instance, first, Kind.RUN_START)
    for order_by, newest in (("update_timestamp", first), ("id", second), ("start_time", first)):
        records = instance.get_run_records(order_by=order_by)
        assert records[0].dagster_run.run_id == newest.run_id, order_by
        again = instance.get_run_records(order_by=order_by, ascending=True)
        assert [record.storage_id for record in again] == [record.storage_id for record in reversed(records)]


def test_a_run_and_what_was_run_again_from_it_are_a_group(instance: dg.DagsterInstance) -> None:
    root = add_run(instance)

    def again(parent: dg.DagsterRun) -> dg.DagsterRun:
        tags = {PARENT_RUN_ID_TAG: parent.run_id, ROOT_RUN_ID_TAG: root.run_id}
        return add_run(instance, parent_run_id=parent.run_id, root_run_id=root.run_id, tags=tags)

    child = again(root)
    grandchild = again(child)
    add_run(instance)
    family = {root.run_id, child.run_id, grandchild.run_id}
    for member in family:
        found = instance.get_run_group(member)
        assert found is not None
        assert (found[0], {run.run_id for run in found[1]}) == (root.run_id, family)
    with pytest.raises(DagsterRunNotFoundError):
        instance.get_run_group("unknown")


def test_the_partitions_of_runs_are_listed_with_their_newest_status(instance: dg.DagsterInstance) -> None:
    for key, status in (("p", Status.FAILURE), ("q", Status.SUCCESS), ("p", Status.SUCCESS)):
        add_run(instance, status=status, tags={PARTITION_NAME_TAG: key})
    add_run(instance, "another", tags={PARTITION_NAME_TAG: "r"})
    found = instance.run_storage.get_run_partition_data(dg.RunsFilter(job_name="job"))
    assert {one.partition: one.status for one in found} == {"p": Status.SUCCESS, "q": Status.SUCCESS}


def test_a_deleted_run_takes_its_events_and_tags_along_and_no_others(instance: dg.DagsterInstance) -> None:
    gone, kept = (add_run(instance, tags={"run": name}) for name in ("gone", "kept"))
    for run in (gone, kept):
        say(instance, run, Kind.RUN_START)
        say(instance, run, step="step", message="a line")
    instance.delete_run(gone.run_id)
    assert instance.get_run_by_id(gone.run_id) is None
    assert instance.all_logs(gone.run_id) == []
    assert len(instance.all_logs(kept.run_id)) == 2
    assert dict(instance.run_storage.get_run_tags(["run"])) == {"run": {"kept"}}


def test_snapshots_of_a_job_and_its_plan_are_kept_once_and_the_run_is_found_by_them(
    instance: dg.DagsterInstance,
) -> None:
    runs, job = instance.run_storage, doubling_job.get_job_snapshot()
    plan = dg.reconstructable(doubling_job)
    assert not runs.has_job_snapshot(doubling_job.get_job_snapshot_id())
    for _ in range(2):
        job_id = runs.add_job_snapshot(job)
    assert (job_id, runs.has_job_snapshot(job_id), runs.get_job_snapshot(job_id)) == (job.snapshot_id, True, job)
    created = instance.create_run_for_job(doubling_job, job_code_origin=plan.get_python_origin())
    assert created.execution_plan_snapshot_id is not None
    assert runs.has_execution_plan_snapshot(created.execution_plan_snapshot_id)
    stored = runs.get_execution_plan_snapshot(created.execution_plan_snapshot_id)
    assert create_execution_plan_snapshot_id(stored) == created.execution_plan_snapshot_id
    assert {step.key for step in stored.steps} >= {"fan_out", "add_up"}
    assert not runs.has_execution_plan_snapshot("unknown")
    assert runs.get_run_ids(dg.RunsFilter(snapshot_id=job_id)) == [created.run_id]


def test_cursors_of_the_daemon_are_kept_by_name(instance: dg.DagsterInstance) -> None:
    runs = instance.run_storage
    runs.set_cursor_values({"a": "1", "b": "2"})
    runs.set_cursor_values({"a": "3"})
    assert runs.get_cursor_values({"a", "b", "c"}) == {"a": "3", "b": "2"}


def test_the_newest_heartbeat_of_each_daemon_counts(instance: dg.DagsterInstance) -> None:
    for at_s, kind in ((1.0, "SENSOR"), (2.0, "SCHEDULER"), (3.0, "SENSOR")):
        instance.add_daemon_heartbeat(DaemonHeartbeat(at_s, kind, "id"))
    assert {kind: beat.timestamp for kind, beat in instance.get_daemon_heartbeats().items()} == {
        "SENSOR": 3.0,
        "SCHEDULER": 2.0,
    }


@pytest.mark.filterwarnings("ignore:implicitly coercing SELECT object to scalar subquery")  # Dagster's own query
def test_backfills_are_kept_changed_filtered_and_paged(instance: dg.DagsterInstance) -> None:
    made = [
        PartitionBackfill(name, BulkActionStatus.REQUESTED, False, {"of": name}, float(number), asset_selection=[])
        for number, name in enumerate(("first", "second", "third"))
    ]
    for backfill in made:
        instance.add_backfill(backfill)
    instance.update_backfill(made[1].with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert instance.get_backfill("second").status is BulkActionStatus.COMPLETED_SUCCESS
    assert instance.get_backfill("unknown") is None

    def names(**asked: Any) -> list[str]:
        return [backfill.backfill_id for backfill in instance.get_backfills(**asked)]

    asked_for = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
    assert names() == ["third", "second", "first"]
    assert names(filters=asked_for) == ["third", "first"]
    assert names(filters=BulkActionsFilter(tags={"of": "first"})) == ["first"]
    assert names(limit=1) == ["third"]
    assert names(limit=2, cursor="third") == ["second", "first"]
    assert instance.get_backfills_count(asked_for) == 2


# Instigators and their ticks.


@pytest.fixture
def schedules(instance: dg.DagsterInstance) -> ScheduleStorage:
    assert instance.schedule_storage is not None
    return instance.schedule_storage


def _state(name: str, kind: InstigatorType, status: InstigatorStatus) -> InstigatorState:
    data = None if kind is InstigatorType.SENSOR else ScheduleInstigatorData("0 6 * * *", 1.0)
    return InstigatorState(RemoteInstigatorOrigin(REPOSITORY, name), kind, status, data)


def test_the_state_of_an_instigator_is_kept_changed_filtered_and_deleted(schedules: ScheduleStorage) -> None:
    sensor = _state("sensor", InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    stopped = _state("schedule", InstigatorType.SCHEDULE, InstigatorStatus.STOPPED)
    for state in (sensor, stopped):
        schedules.add_instigator_state(state)
    changed = sensor.with_data(SensorInstigatorData(cursor="ü 7"))
    schedules.update_instigator_state(changed)
    assert schedules.get_instigator_state(sensor.instigator_origin_id, sensor.selector_id) == changed
    assert {state.name for state in schedules.all_instigator_state()} == {"sensor", "schedule"}
    filters: list[tuple[dict[str, Any], set[str]]] = [
        ({"instigator_type": InstigatorType.SENSOR}, {"sensor"}),
        ({"instigator_statuses": {InstigatorStatus.STOPPED}}, {"schedule"}),
        ({"repository_selector_id": sensor.repository_selector_id}, {"sensor", "schedule"}),
        ({"repository_selector_id": "unknown"}, set()),
    ]
    for wanted, found in filters:
        assert {state.name for state in schedules.all_instigator_state(**wanted)} == found, wanted
    schedules.delete_instigator_state(sensor.instigator_origin_id, sensor.selector_id)
    assert schedules.get_instigator_state(sensor.instigator_origin_id, sensor.selector_id) is None
    with pytest.raises(dg.DagsterInvariantViolationError):
        schedules.update_instigator_state(changed)


ORIGIN, SELECTOR = "origin", "selector"


def _tick(status: TickStatus, at_s: float, selector: str = SELECTOR) -> TickData:
    return TickData(ORIGIN, "sensor", InstigatorType.SENSOR, status, at_s, run_ids=[], selector_id=selector)


TICKS: list[tuple[dict[str, Any], list[float]]] = [
    ({}, [40, 30, 20, 10]),
    ({"limit": 2}, [40, 30]),
    ({"before": 30.0}, [20, 10]),
    ({"after": 20.0}, [40, 30]),
    ({"after": 10.0, "before": 40.0, "limit": 1}, [30]),
    ({"statuses": [TickStatus.SKIPPED]}, [30, 10]),
    ({"statuses": [TickStatus.SKIPPED, TickStatus.STARTED], "after": 20.0}, [40, 30]),
]


def test_ticks_are_found_newest_first(schedules: ScheduleStorage) -> None:
    kinds = (TickStatus.SKIPPED, TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.STARTED)
    made = [schedules.create_tick(_tick(kind, 10.0 * number)) for number, kind in enumerate(kinds, 1)]
    schedules.create_tick(_tick(TickStatus.SKIPPED, 25.0, "another"))
    for asked, found in TICKS:
        assert [tick.timestamp for tick in schedules.get_ticks(ORIGIN, SELECTOR, **asked)] == found, asked
    assert schedules.get_tick(made[1].tick_id).timestamp == 20
    assert {tick.timestamp for tick in schedules.get_ticks_by_ids([made[0].tick_id, made[3].tick_id])} == {10, 40}
    batch = schedules.get_batch_ticks([SELECTOR, "another"], limit=1)
    newest = {name: [tick.timestamp for tick in ticks] for name, ticks in batch.items()}
    assert newest == {SELECTOR: [40], "another": [25]}


def test_a_tick_that_goes_on_is_changed_in_its_place(schedules: ScheduleStorage) -> None:
    tick = schedules.create_tick(_tick(TickStatus.STARTED, 10.0))
    schedules.update_tick(tick.with_status(TickStatus.SUCCESS).with_cursor("after").with_run_info(run_id="run"))
    (stored,) = schedules.get_ticks(ORIGIN, SELECTOR)
    assert (stored.tick_id, stored.status, stored.cursor, list(stored.run_ids)) == (
        tick.tick_id,
        TickStatus.SUCCESS,
        "after",
        ["run"],
    )


def test_old_ticks_of_a_kind_are_removed(schedules: ScheduleStorage) -> None:
    for status, at_s in ((TickStatus.SKIPPED, 10.0), (TickStatus.SUCCESS, 20.0), (TickStatus.SKIPPED, 30.0)):
        schedules.create_tick(_tick(status, at_s))
    schedules.purge_ticks(ORIGIN, SELECTOR, before=30.0, tick_statuses=[TickStatus.SKIPPED])
    assert [tick.timestamp for tick in schedules.get_ticks(ORIGIN, SELECTOR)] == [30, 20]
    schedules.purge_ticks(ORIGIN, SELECTOR, before=30.0)
    assert [tick.timestamp for tick in schedules.get_ticks(ORIGIN, SELECTOR)] == [30]


# The schema.


def test_the_schema_is_dagsters_newest_and_migrating_again_changes_nothing(instance: dg.DagsterInstance) -> None:
    run = add_run(instance, tags={PARTITION_NAME_TAG: "p"})
    say(instance, run, Kind.RUN_START)
    instance.upgrade()
    instance.reindex()
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        assert storage is not None
        stored, newest = storage.alembic_version()
        assert stored == newest is not None
    assert instance.get_run_by_id(run.run_id).status is Status.STARTED
    assert len(instance.all_logs(run.run_id)) == 1
