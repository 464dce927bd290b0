"""The day's housekeeping in the database and in Dagster's list of partitions: each op alone, each safe to repeat."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.archive.archive import FAILURES, LAST_STAGES, ArchiveStep, archive_partitions
from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.defs.failures import failing_plainly
from raceday_dagster.defs.ops.batch import UNFINISHED, find_races_in_config
from raceday_dagster.defs.partitions import RACES
from raceday_dagster.errors import RacedayError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_today
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_starts import read_races_since
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.sql_errors import describe_cause

DAYS_AHEAD = 4
KEEP_DAYS = 30
SHOWN = 20
KEYS_AT_ONCE = 100
PARTITION_TAG = "dagster/partition"
UNFINISHED_BACKFILLS = frozenset({"REQUESTED", "CANCELING", "FAILING"})
NEWEST_BACKFILLS = 20


class ArchiveHistory(dg.Config):
    """Which history leaves the database, and where to."""

    keep_days: int = Field(
        default=KEEP_DAYS, ge=2, le=3650, description="Racing days older than so many days (New Zealand) are archived."
    )
    folder: str = Field(default="", description="Where the Parquet files go. Empty: ARCHIVE_DIR.")
    longest_minutes: int = Field(
        default=30, ge=1, description="No partition is begun after so many minutes; the rest is left to next time."
    )


class RemoveOldPartitions(dg.Config):
    """Which races leave the list of partitions."""

    keep_days: int = Field(default=KEEP_DAYS, ge=2, le=3650, description="Days a race stays after its start.")


@dg.op(
    description="The history partitions of today and the four days after it, in New Zealand.",
    tags={"dagster/priority": "4"},
)
def create_history_partitions(context: dg.OpExecutionContext, race_store: dg.ResourceParam[RaceStore]) -> None:
    log = get_logger(run_id=context.run_id)
    last = choose_today(datetime.now(UTC)) + timedelta(days=DAYS_AHEAD)
    log.info("partition_creation_start", until=last)
    with failing_plainly():
        try:
            created = race_store.ensure_partitions([last])
        except RacedayError as error:
            log.error("partition_creation_failed", until=last, error=str(error))
            raise
    log.info("partition_creation_complete", until=last, names=created)
    context.log.info(f"History partitions until {last}: {len(created)} made")
    context.add_output_metadata({"until": last.isoformat(), "created": created, "partitions_created": len(created)})


@dg.op(
    description="Old history partitions: detached, exported to Parquet, dropped. What fails stays, for the next run.",
    tags={"dagster/priority": "3"},
)
def archive_history(
    context: dg.OpExecutionContext,
    config: ArchiveHistory,
    settings: dg.ResourceParam[Settings],
    race_store: dg.ResourceParam[RaceStore],
) -> None:
    folder = Path(config.folder) if config.folder else settings.archive_folder
    before = choose_today(datetime.now(UTC)) - timedelta(days=config.keep_days)
    steps: list[ArchiveStep] = []
    reason = ""
    try:
        with closing(archive_partitions(race_store.engine, folder, before)) as archiving:
            steps.extend(report_steps(context, archiving, until_s=time.monotonic() + 60 * config.longest_minutes))
    except RacedayError as error:
        reason = str(error)
    metadata = {"before": before.isoformat(), "folder": str(folder), **summarise_steps(steps)}
    failed = [step for step in steps if step.stage in FAILURES]
    if failed:
        reason = f"{len(failed)} not archived; the first: {failed[0].partition}: {failed[0].reason}"
    if reason:
        raise dg.Failure(f"Old history is not all archived: {reason}", metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


def report_steps(
    context: dg.OpExecutionContext, steps: Iterable[ArchiveStep], *, until_s: float
) -> Iterator[ArchiveStep]:
    """Logs each step as it happens; goes on to another partition only before ``until_s`` of ``time.monotonic``."""
    log = get_logger(run_id=context.run_id)
    for step in steps:
        if step.stage == "detached":
            log.info("partition_detached", partition=step.partition)
        if step.stage in FAILURES:
            context.log.error(f"{step.partition} could not be archived: {step.reason}")
        else:
            context.log.info(f"{step.partition} {step.stage}: {step.rows} rows {step.file}")
        yield step
        if step.stage in LAST_STAGES and time.monotonic() > until_s:
            context.log.warning("Out of time: what is left of the old history is archived next time")
            return


@dg.op(
    description="Keys of races that started long ago or are not stored, and that no pending run names, removed.",
    tags={"dagster/priority": "2"},
)
def remove_old_partitions(
    context: dg.OpExecutionContext, config: RemoveOldPartitions, race_store: dg.ResourceParam[RaceStore]
) -> None:
    instance = context.instance
    since = datetime.now(UTC) - timedelta(days=config.keep_days)
    metadata: dict[str, Any] = {"started_before": since.isoformat(timespec="seconds"), "partitions_removed": 0}
    try:
        keys = instance.get_dynamic_partitions(RACES)
        old = choose_old_keys(keys, recent=read_races_since(race_store.engine, since), named=set())
        for key in choose_unnamed_keys(instance, old):
            instance.delete_dynamic_partition(RACES, key)
            metadata["partitions_removed"] += 1
    except (RacedayError, StorageError, SQLAlchemyError) as error:
        reason = f"Keys of old races are not all removed: {describe_cause(error)}; the next run goes on from here"
        raise dg.Failure(reason, metadata=metadata, allow_retries=False) from error
    kept = len(old) - metadata["partitions_removed"]
    context.log.info(f"{metadata['partitions_removed']} of {len(keys)} partitions of races removed")
    context.add_output_metadata({**metadata, "partitions": len(keys), "kept_for_pending_runs": kept})


def choose_old_keys(keys: Iterable[str], *, recent: set[str], named: set[str]) -> list[str]:
    """Keys that neither a recent race nor a pending run has, in their order."""
    return [key for key in keys if key not in recent and key not in named]


def choose_unnamed_keys(instance: dg.DagsterInstance, keys: Sequence[str]) -> Iterator[str]:
    """Keys that no unfinished run or backfill names, looked at again every ``KEYS_AT_ONCE``: little time for one to be
    requested between the look and the deed."""
    # Backfills are never deleted, and Dagster's public interface has no filter for them: the old ones are read once.
    in_backfills = find_races_in_backfills(instance.get_backfills())
    for first in range(0, len(keys), KEYS_AT_ONCE):
        requested = find_races_in_backfills(instance.get_backfills(limit=NEWEST_BACKFILLS))
        named = in_backfills | requested | read_races_in_runs(instance)
        yield from choose_old_keys(keys[first : first + KEYS_AT_ONCE], recent=set(), named=named)


def read_races_in_runs(instance: dg.DagsterInstance) -> set[str]:
    """Races that an unfinished run names, as its partition or in its config."""
    named: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        named.update(find_races_in_config(run.run_config))
        if PARTITION_TAG in run.tags:
            named.add(run.tags[PARTITION_TAG])
    return named


def find_races_in_backfills(backfills: Iterable[Any]) -> set[str]:
    """Partitions of backfills that are not over."""
    unfinished = (backfill for backfill in backfills if backfill.status.value in UNFINISHED_BACKFILLS)
    return {race_id for backfill in unfinished for race_id in backfill.partition_names or ()}


def summarise_steps(steps: Iterable[ArchiveStep]) -> dict[str, Any]:
    """What an archiving came to, as metadata: counts, and the first few files and failures by name."""
    steps = list(steps)
    dropped = [step for step in steps if step.stage == "dropped"]
    failed = [f"{step.partition}: {step.reason}" for step in steps if step.stage in FAILURES]
    files = [step.file for step in dropped if step.file]
    return {
        "partitions_detached": sum(step.stage == "detached" for step in steps),
        "partitions_exported": sum(step.stage == "exported" for step in steps),
        "partitions_dropped": len(dropped),
        "partitions_failed": len(failed),
        "rows_archived": sum(step.rows for step in dropped),
        "files": files[:SHOWN],
        "failures": failed[:SHOWN],
    }
