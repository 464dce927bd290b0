"""What Dagster promises of events, assets, partitions and op pools, asked of its own storage and of ours alike."""

import threading
import time
from collections.abc import Iterable
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationPlanned,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.events import AssetObservation
from dagster._core.event_api import RunStatusChangeRecordsFilter
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    StepMaterializationData,
    StepSuccessData,
)
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData
from dagster._core.execution.stats import StepEventStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.partition_status_cache import AssetStatusCacheValue
from dagster_shared.error import SerializableErrorInfo

from raceday_dagster_tests.integration.dagster_plugins.executor_probe import PATIENCE_S
from raceday_dagster_tests.integration.dagster_plugins.storage_contract_fixture import (
    KINDS,
    Kind,
    add_run,
    entry,
    instance,
    opened_instance,
    say,
)
from raceday_dagster_tests.waiting import wait_for

__all__ = ["instance", "opened_instance"]
pytestmark = pytest.mark.parametrize("opened_instance", KINDS, indirect=True, scope="module")

KEY = dg.AssetKey(["races", "settled"])
ERROR = SerializableErrorInfo("boom", stack=["a line"], cls_name="ValueError")


@pytest.fixture
def log(instance: dg.DagsterInstance) -> EventLogStorage:
    return instance.event_log_storage


# Events of a run.


def test_the_events_of_a_run_come_in_order_by_kind_and_in_pages(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    run, other = add_run(instance), add_run(instance)
    say(instance, run, Kind.RUN_START, message="0")
    for number in range(1, 6):
        say(instance, run, step="a_step", message=str(number))
        say(instance, other, message="of another run")
    say(instance, run, Kind.STEP_SUCCESS, StepSuccessData(1.0), step="a_step", message="6")
    say(instance, run, Kind.RUN_SUCCESS, message="7")

    def messages(**asked: Any) -> str:
        return "".join(found.user_message for found in log.get_logs_for_run(run.run_id, **asked))

    assert messages() == "01234567"
    assert messages(ascending=False) == "76543210"
    assert messages(limit=3) == "012"
    assert messages(of_type=Kind.STEP_SUCCESS) == "6"
    assert messages(of_type={Kind.RUN_START, Kind.RUN_SUCCESS}) == "07"
    assert messages(of_type=Kind.STEP_FAILURE) == ""
    pages, cursor, has_more = [], None, True
    while has_more:
        page = log.get_records_for_run(run.run_id, cursor=cursor, limit=3)
        pages.append("".join(record.event_log_entry.user_message for record in page.records))
        cursor, has_more = page.cursor, page.has_more
    assert pages == ["012", "345", "67"]
    say(instance, run, message="8")
    assert messages(cursor=cursor) == "8"
    ids = [record.storage_id for record in log.get_records_for_run(run.run_id).records]
    assert ids == sorted(set(ids))
    assert log.get_logs_for_run("unknown") == []


def test_an_event_comes_back_as_it_was_said(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    said = entry("run", Kind.STEP_FAILURE, StepFailureData(ERROR, None), step="ä [1]", at_s=12.5, message="ö\n\u2028")
    log.store_event(said)
    assert log.get_logs_for_run("run") == [said]


def test_several_events_may_be_stored_at_once(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    log.store_event(entry("run", step="step", message="0"))
    made = StepMaterializationData(dg.AssetMaterialization(KEY))
    log.store_event_batch(
        [entry("run", Kind.ASSET_MATERIALIZATION, made, step="step", message=str(number)) for number in (1, 2)]
    )
    assert [found.user_message for found in log.get_logs_for_run("run")] == ["0", "1", "2"]


def test_the_events_of_all_runs_are_read_by_their_number(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    for number in range(4):
        kind = Kind.RUN_START if number % 2 else None
        say(instance, add_run(instance), kind, message=str(number))
    everything = log.get_logs_for_all_runs_by_log_id()
    assert [found.user_message for found in everything.values()] == ["0", "1", "2", "3"]
    first, *_, last = everything
    assert log.get_maximum_record_id() == last
    after = log.get_logs_for_all_runs_by_log_id(after_cursor=first, limit=2)
    assert [found.user_message for found in after.values()] == ["1", "2"]
    starts = log.get_logs_for_all_runs_by_log_id(dagster_event_type=Kind.RUN_START)
    assert [found.user_message for found in starts.values()] == ["1", "3"]


def test_deleted_events_are_those_of_one_run(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    for name in ("gone", "kept"):
        say(instance, name, message=name)
    log.delete_events("gone")
    assert [found.user_message for found in log.get_logs_for_all_runs_by_log_id().values()] == ["kept"]
    log.wipe()
    assert log.get_logs_for_all_runs_by_log_id() == {}


def test_who_watches_a_run_hears_what_is_said_after_and_until_the_end_of_the_watch(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    heard: list[str] = []
    say(instance, "run", message="before")
    cursor = log.get_records_for_run("run").cursor

    def hear(event: dg.EventLogEntry, _: str) -> None:
        heard.append(event.user_message)

    log.watch("run", cursor, hear)
    say(instance, "another", message="of another run")
    for number in range(3):
        say(instance, "run", message=str(number))
    assert wait_for(lambda: len(heard) == 3, PATIENCE_S), heard
    log.end_watch("run", hear)
    say(instance, "run", message="after")
    done = threading.Event()
    log.watch("run", cursor, lambda event, _: done.set() if event.user_message == "after" else None)
    assert done.wait(PATIENCE_S)
    assert heard == ["0", "1", "2"]


def test_changes_of_run_status_are_found_by_kind_and_number_in_pages(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    runs = [add_run(instance) for _ in range(3)]
    for run in runs:
        say(instance, run, Kind.RUN_START)
        say(instance, run, Kind.RUN_SUCCESS)

    def found(wanted: Kind | RunStatusChangeRecordsFilter, **asked: Any) -> tuple[list[int], str, bool]:
        page = log.fetch_run_status_changes(wanted, **{"limit": 10, **asked})
        numbers = {run.run_id: number for number, run in enumerate(runs)}
        return [numbers[record.run_id] for record in page.records], page.cursor, page.has_more

    assert found(Kind.RUN_SUCCESS)[0] == [2, 1, 0]
    assert found(Kind.RUN_FAILURE)[0] == []
    middle = log.fetch_run_status_changes(Kind.RUN_START, limit=3).records[1].storage_id
    assert found(RunStatusChangeRecordsFilter(Kind.RUN_START, after_storage_id=middle))[0] == [2]
    assert found(RunStatusChangeRecordsFilter(Kind.RUN_START, before_storage_id=middle))[0] == [0]
    first, cursor, has_more = found(Kind.RUN_SUCCESS, limit=2, ascending=True)
    assert (first, has_more) == ([0, 1], True)
    rest, _, has_more = found(Kind.RUN_SUCCESS, limit=2, ascending=True, cursor=cursor)
    assert (rest, has_more) == ([2], False)


def test_numbers_of_a_run_and_its_steps_are_counted_from_its_events(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    run = add_run(instance)
    started = say(instance, run, Kind.RUN_START)
    times = {}
    for step in ("good", "bad", "late"):
        times[step] = say(instance, run, Kind.STEP_START, step=step)
    say(instance, run, Kind.STEP_UP_FOR_RETRY, StepRetryData(ERROR), step="late")
    say(instance, run, Kind.STEP_RESTARTED, step="late")
    good = say(instance, run, Kind.STEP_SUCCESS, StepSuccessData(1.0), step="good")
    say(instance, run, Kind.STEP_FAILURE, StepFailureData(ERROR, None), step="bad")
    ended = say(instance, run, Kind.RUN_FAILURE)
    numbers = log.get_stats_for_run(run.run_id)
    assert (numbers.steps_succeeded, numbers.steps_failed, numbers.start_time, numbers.end_time) == (
        1,
        1,
        started,
        ended,
    )
    steps = {found.step_key: found for found in log.get_step_stats_for_run(run.run_id)}
    assert {key: found.status for key, found in steps.items()} == {
        "good": StepEventStatus.SUCCESS,
        "bad": StepEventStatus.FAILURE,
        "late": StepEventStatus.IN_PROGRESS,
    }
    assert (steps["good"].start_time, steps["good"].end_time) == (times["good"], good)
    assert (steps["good"].attempts, steps["late"].attempts) == (1, 2)
    (only,) = log.get_step_stats_for_run(run.run_id, step_keys=["bad"])
    assert only.step_key == "bad"


# Assets.


def materialise(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun | str,
    key: dg.AssetKey = KEY,
    partition: str | None = None,
    at_s: float | None = None,
    **tags: str,
) -> None:
    made = dg.AssetMaterialization(key, partition=partition, tags=tags or None, metadata={"rows": 7})
    say(instance, run, Kind.ASSET_MATERIALIZATION, StepMaterializationData(made), step="make", at_s=at_s)


def test_an_asset_is_known_from_its_first_materialisation_to_its_wipe(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    assert not log.has_asset_key(KEY)
    run = add_run(instance)
    others = [dg.AssetKey(name) for name in ("batches", "images")]
    materialise(instance, run)
    for key in others:
        materialise(instance, run, key)
    materialise(instance, add_run(instance), partition="p")
    assert set(log.all_asset_keys()) == {KEY, *others}
    assert log.get_asset_keys(prefix=["races"]) == [KEY]
    assert list(log.get_asset_keys(limit=2)) == [others[0], others[1]]
    assert list(log.get_asset_keys(limit=2, cursor=others[1].to_string())) == [KEY]
    (record,) = log.get_asset_records([KEY])
    newest = record.asset_entry.last_materialization
    assert newest is not None
    assert newest.asset_materialization == dg.AssetMaterialization(KEY, partition="p", metadata={"rows": 7})
    assert log.get_latest_materialization_events([KEY, dg.AssetKey("unknown")])[KEY] == newest
    log.wipe_asset(KEY)
    assert not log.has_asset_key(KEY)
    assert log.get_asset_records([KEY]) == []
    assert log.fetch_materializations(KEY, limit=5).records == []
    assert set(log.all_asset_keys()) == set(others)
    materialise(instance, run, at_s=time.time())
    assert log.has_asset_key(KEY)


def test_materialisations_are_found_by_partition_number_and_time_in_pages(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    run = add_run(instance)
    for partition in "abcab":
        materialise(instance, run, partition=partition)
    materialise(instance, run, dg.AssetKey("another"), partition="a")
    all_found = log.fetch_materializations(KEY, limit=10).records
    ids, times = [record.storage_id for record in all_found], [record.timestamp for record in all_found]
    assert ids == sorted(ids, reverse=True)

    def found(limit: int = 10, ascending: bool = False, **wanted: Any) -> str:
        page = log.fetch_materializations(dg.AssetRecordsFilter(KEY, **wanted), limit=limit, ascending=ascending)
        return "".join(record.partition_key or "-" for record in page.records)

    for wanted, partitions in (
        ({}, "bacba"),
        ({"ascending": True}, "abcab"),
        ({"limit": 2}, "ba"),
        ({"asset_partitions": ["a", "c"]}, "aca"),
        ({"after_storage_id": ids[2]}, "ba"),
        ({"before_storage_id": ids[2]}, "ba"),
        ({"storage_ids": [ids[0], ids[2]]}, "bc"),
        ({"after_timestamp": times[1]}, "b"),
        ({"before_timestamp": times[3]}, "a"),
    ):
        assert found(**wanted) == partitions, wanted
    first = log.fetch_materializations(KEY, limit=3, ascending=True)
    rest = log.fetch_materializations(KEY, limit=3, ascending=True, cursor=first.cursor)
    assert (len(first.records), first.has_more, len(rest.records), rest.has_more) == (3, True, 2, False)


def test_partitions_of_an_asset_have_their_newest_event_tags_and_versions(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    run = add_run(instance)
    for partition, version in (("a", "1"), ("b", "1"), ("a", "2")):
        materialise(instance, run, partition=partition, **{DATA_VERSION_TAG: version})
    ids = [record.storage_id for record in log.fetch_materializations(KEY, limit=3, ascending=True).records]
    kind = Kind.ASSET_MATERIALIZATION
    assert log.get_materialized_partitions(KEY) == {"a", "b"}
    assert log.get_materialized_partitions(KEY, after_cursor=ids[1]) == {"a"}
    assert log.get_materialized_partitions(KEY, before_cursor=ids[1]) == {"a"}
    assert log.get_latest_storage_id_by_partition(KEY, kind) == {"a": ids[2], "b": ids[1]}
    assert log.get_latest_storage_id_by_partition(KEY, kind, {"b"}) == {"b": ids[1]}
    tags = log.get_latest_tags_by_partition(KEY, kind, tag_keys=[DATA_VERSION_TAG])
    assert tags == {"a": {DATA_VERSION_TAG: "2"}, "b": {DATA_VERSION_TAG: "1"}}
    assert log.get_updated_data_version_partitions(KEY, ["a", "b"], since_storage_id=ids[1]) == {"a"}
    assert {DATA_VERSION_TAG: "2"} in log.get_event_tags_for_asset(KEY, filter_tags={DATA_VERSION_TAG: "2"})
    assert log.get_event_tags_for_asset(KEY, filter_event_id=ids[1]) == [{DATA_VERSION_TAG: "1"}]


def test_a_planned_materialisation_is_known_until_it_has_come_or_failed(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    first, second = add_run(instance), add_run(instance)
    for run, partition in ((first, "a"), (second, "b")):
        planned = AssetMaterializationPlannedData(KEY, partition=partition)
        say(instance, run, Kind.ASSET_MATERIALIZATION_PLANNED, planned, step="make")
    materialise(instance, first, partition="a")
    say(instance, second, Kind.STEP_FAILURE, StepFailureData(ERROR, None), step="make")
    newest = log.get_latest_planned_materialization_info(KEY)
    assert newest is not None
    assert newest.run_id == second.run_id
    of_a = log.get_latest_planned_materialization_info(KEY, partition="a")
    assert of_a is not None
    assert of_a.run_id == first.run_id
    left = log.get_latest_asset_partition_materialization_attempts_without_materializations(KEY)
    assert left == {"b": (second.run_id, newest.storage_id)}


def test_observations_stand_beside_materialisations(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    run = add_run(instance)
    for value in ("1", "2"):
        seen = AssetObservation(KEY, metadata={"value": value})
        say(instance, run, Kind.ASSET_OBSERVATION, AssetObservationData(seen), step="look")
    newest, _ = log.fetch_observations(KEY, limit=2).records
    assert newest.asset_observation is not None
    assert newest.asset_observation.metadata["value"].value == "2"
    assert log.fetch_materializations(KEY, limit=2).records == []


def test_the_cached_status_of_an_asset_is_kept_and_wiped(instance: dg.DagsterInstance, log: EventLogStorage) -> None:
    materialise(instance, add_run(instance))
    value = AssetStatusCacheValue(latest_storage_id=7, partitions_def_id="definition")
    log.update_asset_cached_status_data(KEY, value)

    def cached() -> object:
        (record,) = log.get_asset_records([KEY])
        return record.asset_entry.cached_status

    assert cached() == value
    log.wipe_asset_cached_status(KEY)
    assert cached() is None


def test_a_check_of_an_asset_is_planned_and_then_has_its_result(
    instance: dg.DagsterInstance, log: EventLogStorage
) -> None:
    check = dg.AssetCheckKey(KEY, "complete")
    run = add_run(instance)

    def statuses() -> list[AssetCheckExecutionRecordStatus]:
        return [record.status for record in log.get_asset_check_execution_history(check, limit=9)]

    for passed in (True, False):
        planned = AssetCheckEvaluationPlanned(asset_key=KEY, check_name=check.name)
        say(instance, run, Kind.ASSET_CHECK_EVALUATION_PLANNED, planned, step="check")
        assert statuses()[0] is AssetCheckExecutionRecordStatus.PLANNED
        said = AssetCheckEvaluation(asset_key=KEY, check_name=check.name, passed=passed, metadata={})
        say(instance, run, Kind.ASSET_CHECK_EVALUATION, said, step="check")
        run = add_run(instance)
    good, bad = AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED
    assert statuses() == [bad, good]
    assert log.get_latest_asset_check_execution_by_key([check])[check].status is bad
    (only,) = log.get_asset_check_execution_history(check, limit=9, status={good})
    assert only.status is good


# Dynamic partitions.


def test_dynamic_partitions_keep_their_order_and_come_in_pages(log: EventLogStorage) -> None:
    keys = ["z 1", "a/2", "ü 3", "m 4", "m 5"]
    log.add_dynamic_partitions("races", keys[:3])
    log.add_dynamic_partitions("races", keys[1:])  # some of them again
    log.add_dynamic_partitions("another", ["x"])
    assert list(log.get_dynamic_partitions("races")) == keys
    assert log.has_dynamic_partition("races", "ü 3")
    assert not log.has_dynamic_partition("another", "ü 3")
    assert log.get_existing_dynamic_partitions("races", ["z 1", "x"]) == {"z 1"}
    for ascending, pages in ((True, [keys[:2], keys[2:4], keys[4:]]), (False, [keys[:2:-1], keys[2:0:-1], keys[:1]])):
        assert list(_pages(log, ascending)) == pages
    log.delete_dynamic_partition("races", "a/2")
    assert list(log.get_dynamic_partitions("races")) == ["z 1", "ü 3", "m 4", "m 5"]
    assert list(log.get_dynamic_partitions("unknown")) == []


def _pages(log: EventLogStorage, ascending: bool) -> Iterable[list[str]]:
    cursor, has_more = None, True
    while has_more:
        page = log.get_paginated_dynamic_partitions("races", limit=2, ascending=ascending, cursor=cursor)
        yield list(page.results)
        cursor, has_more = page.cursor, page.has_more


# Op pools.


def test_the_places_of_a_pool_go_to_who_asks_first_and_by_priority(log: EventLogStorage) -> None:
    log.set_concurrency_slots("pool", 1)
    assert log.claim_concurrency_slot("pool", "run", "first").is_claimed
    assert not log.claim_concurrency_slot("pool", "run", "second").is_claimed
    assert not log.claim_concurrency_slot("pool", "other", "urgent", priority=5).is_claimed
    info = log.get_concurrency_info("pool")
    assert (info.slot_count, info.active_slot_count, info.pending_step_count) == (1, 1, 2)
    assert (info.active_run_ids, info.pending_run_ids) == ({"run"}, {"run", "other"})
    assert log.get_concurrency_run_ids() == {"run", "other"}
    log.free_concurrency_slot_for_step("run", "first")
    assert not log.check_concurrency_claim("pool", "run", "second").is_claimed
    assert log.claim_concurrency_slot("pool", "other", "urgent").is_claimed
    log.free_concurrency_slots_for_run("other")
    assert log.claim_concurrency_slot("pool", "run", "second").is_claimed
    assert log.check_concurrency_claim("pool", "run", "second").is_claimed
    assert not log.check_concurrency_claim("pool", "run", "unknown").is_claimed


def test_a_pool_grows_shrinks_and_goes(log: EventLogStorage) -> None:
    log.set_concurrency_slots("pool", 2)
    for step in ("first", "second"):
        assert log.claim_concurrency_slot("pool", "run", step).is_claimed
    log.set_concurrency_slots("pool", 1)
    log.free_concurrency_slot_for_step("run", "first")
    assert not log.claim_concurrency_slot("pool", "run", "third").is_claimed
    log.set_concurrency_slots("pool", 2)
    assert log.claim_concurrency_slot("pool", "run", "third").is_claimed
    log.set_concurrency_slots("another", 7)
    assert log.get_concurrency_keys() == {"pool", "another"}
    assert {limit.name: limit.limit for limit in log.get_pool_limits()} == {"pool": 2, "another": 7}
    log.delete_concurrency_limit("pool")
    assert {limit.name: limit.limit for limit in log.get_pool_limits()} == {"another": 7}
