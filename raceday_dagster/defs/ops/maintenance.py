"""The job `maintenance`: history partitions ahead and behind, keys of old races, and Dagster's own old runs.

Its four ops take turns and do not wait for each other's success. Each is safe to repeat, and to run while races are
polled. Dagster purges ticks only: a run writes a hundred rows and more, and at a poll every 15 s that is gigabytes a
day, so old runs are deleted here.
"""

import shutil
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
from raceday_dagster.dagster_plugins.executor import build_threaded_executor
from raceday_dagster.dagster_plugins.storage import StorageError, vacuum
from raceday_dagster.defs.failures import failing_plainly
from raceday_dagster.defs.ops.batch import UNFINISHED, find_races_in_config
from raceday_dagster.defs.partitions import RACES
from raceday_dagster.errors import RacedayError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_today
from raceday_dagster.racing.race_key import read_id_start
from raceday_dagster.settings import Settings
from raceday_dagster.store.queries import read_races_since
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.sql_errors import describe_cause

DAYS_AHEAD = 4
KEEP_DAYS = 30
SHOWN = 20
KEYS_AT_ONCE = 100
PARTITION_TAG = "dagster/partition"
UNFINISHED_BACKFILLS = frozenset({"REQUESTED", "CANCELING", "FAILING"})
NEWEST_BACKFILLS = 20
FAILED = (dg.DagsterRunStatus.FAILURE,)
UNREMARKABLE = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)
LONGEST_RUN_S = 3_600  # after weeks without maintenance; a live batch gets far less


class ArchiveHistory(dg.Config):
    """Which history leaves the database, and where to."""

    keep_days: int = Field(
        default=KEEP_DAYS, ge=2, le=3650, description="Racing days older than so many days (New Zealand) are archived."
    )
    keep_ledger_days: int | None = Field(
        default=None,
        ge=8,
        le=3650,
        description="Polls and batches older than so many days are archived. Empty: KEEP_LEDGER_DAYS.",
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
    description="Old history, then the old days of the ledger: set aside, exported to Parquet, dropped. What fails "
    "stays, for the next run.",
    tags={"dagster/priority": "3"},
)
def archive_history(
    context: dg.OpExecutionContext,
    config: ArchiveHistory,
    settings: dg.ResourceParam[Settings],
    race_store: dg.ResourceParam[RaceStore],
) -> None:
    folder = Path(config.folder) if config.folder else settings.archive_folder
    today = choose_today(datetime.now(UTC))
    before = today - timedelta(days=config.keep_days)
    ledger_before = today - timedelta(days=config.keep_ledger_days or settings.keep_ledger_days)
    steps: list[ArchiveStep] = []
    reason = ""
    try:
        archiving = archive_partitions(race_store.engine, folder, before, ledger_before=ledger_before)
        with closing(archiving):
            steps.extend(report_steps(context, archiving, until_s=time.monotonic() + 60 * config.longest_minutes))
    except RacedayError as error:
        reason = str(error)
    dates = {"before": before.isoformat(), "ledger_before": ledger_before.isoformat()}
    metadata = {**dates, "folder": str(folder), **summarise_steps(steps)}
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
        recent = set(map(read_id_start, read_races_since(race_store.engine, since)))
        old = [key for key in keys if read_id_start(key) not in recent]
        for key in choose_unnamed_keys(instance, old):
            instance.delete_dynamic_partition(RACES, key)
            metadata["partitions_removed"] += 1
    except (RacedayError, StorageError, SQLAlchemyError) as error:
        reason = f"Keys of old races are not all removed: {describe_cause(error)}; the next run goes on from here"
        raise dg.Failure(reason, metadata=metadata, allow_retries=False) from error
    kept = len(old) - metadata["partitions_removed"]
    context.log.info(f"{metadata['partitions_removed']} of {len(keys)} partitions of races removed")
    context.add_output_metadata({**metadata, "partitions": len(keys), "kept_for_pending_runs": kept})


def choose_unnamed_keys(instance: dg.DagsterInstance, keys: Sequence[str]) -> Iterator[str]:
    """Keys that no unfinished run or backfill names, looked at again every ``KEYS_AT_ONCE``: little time for one to be
    requested between the look and the deed."""
    # Backfills are never deleted, and Dagster's public interface has no filter for them: the old ones are read once.
    in_backfills = find_races_in_backfills(instance.get_backfills())
    for first in range(0, len(keys), KEYS_AT_ONCE):
        requested = find_races_in_backfills(instance.get_backfills(limit=NEWEST_BACKFILLS))
        named = set(map(read_id_start, in_backfills | requested | read_races_in_runs(instance)))
        yield from (key for key in keys[first : first + KEYS_AT_ONCE] if read_id_start(key) not in named)


def read_races_in_runs(instance: dg.DagsterInstance) -> set[str]:
    """Races that an unfinished run names, as its partition or, by their ids, in its config."""
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


class DeleteOldRuns(dg.Config):
    """How long runs stay."""

    keep_hours: int | None = Field(
        default=None, ge=1, le=8760, description="Hours a finished run stays. Empty: KEEP_RUNS_HOURS."
    )
    keep_failed_hours: int = Field(
        default=336, ge=1, le=8760, description="Hours a failed run stays, if that is longer: somebody may look at it."
    )
    most_failed: int = Field(
        default=500, ge=1, le=100_000, description="Of the failed runs only so many stay longer, the newest."
    )
    batch_size: int = Field(default=100, ge=1, le=1000, description="Runs looked up at a time.")
    most_runs: int = Field(
        default=20_000, ge=1, description="Runs deleted at most; the rest is left to the next execution."
    )


@dg.op(
    description="Dagster's own finished runs with their events, tags and folders, the oldest first; then a VACUUM.",
    tags={"dagster/priority": "1"},
)
def delete_old_runs(
    context: dg.OpExecutionContext, config: DeleteOldRuns, settings: dg.ResourceParam[Settings]
) -> None:
    deletion = RunDeletion(context.instance)
    try:
        for statuses, before in read_cutoffs(context.instance, config, settings.keep_runs_hours):
            deletion.delete(statuses, before, batch_size=config.batch_size, most=config.most_runs)
        deletion.vacuumed = vacuum(context.instance)
    except (StorageError, SQLAlchemyError) as error:
        reason = f"Old runs are not all deleted and vacuumed: {describe_cause(error)}; the next run goes on from here"
        raise dg.Failure(reason, metadata=deletion.describe(config.most_runs), allow_retries=False) from error
    finally:
        if deletion.folders_left:
            get_logger(run_id=context.run_id).warning("run_folder_left", count=len(deletion.folders_left))
            context.log.warning(f"Run folders that cannot be deleted, to be deleted by hand: {deletion.list_left()}")
    context.add_output_metadata(deletion.describe(config.most_runs))
    context.log.info(f"{deletion.runs} runs deleted, vacuumed: {', '.join(deletion.vacuumed) or 'nothing'}")


def read_cutoffs(
    instance: dg.DagsterInstance, config: DeleteOldRuns, keep_runs_hours: int
) -> Iterator[tuple[Sequence[dg.DagsterRunStatus], datetime]]:
    """The instants before which runs that ended so go."""
    now = datetime.now(UTC)
    keep = timedelta(hours=config.keep_hours or keep_runs_hours)
    yield UNREMARKABLE, now - keep
    failed = dg.RunsFilter(statuses=FAILED)
    newest = instance.get_run_records(failed, limit=config.most_failed, order_by="update_timestamp")
    yield (
        FAILED,
        choose_failed_cutoff(
            now,
            keep=keep,
            keep_failed=timedelta(hours=config.keep_failed_hours),
            newest=[record.update_timestamp for record in newest],
            most=config.most_failed,
        ),
    )


def choose_failed_cutoff(
    now: datetime, *, keep: timedelta, keep_failed: timedelta, newest: Sequence[datetime], most: int
) -> datetime:
    """The instant before which a failed run goes.

    Args:
        now: The present.
        keep: How long any run stays.
        keep_failed: How long a failed one stays, if that is longer.
        newest: When the newest failed runs ended, the newest first, at most ``most`` of them.
        most: How many failed runs stay beyond ``keep``: after a day on which every batch failed not all do.
    """
    latest = now - keep
    earliest = now - max(keep, keep_failed)
    if len(newest) < most:
        return earliest
    return min(latest, max(earliest, newest[most - 1].astimezone(UTC)))


class RunDeletion:
    """Deletes runs of an instance with their folders, and counts what went."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._storage_folder = Path(instance.storage_directory())
        self._before: dict[str, str] = {}
        self.runs = 0
        self.folders = 0
        self.folders_left: list[str] = []
        """Those that the system does not let go, with its reason."""
        self.vacuumed: tuple[str, ...] = ()

    def delete(self, statuses: Sequence[dg.DagsterRunStatus], before: datetime, *, batch_size: int, most: int) -> None:
        """Deletes runs of these statuses that ended before an instant, the oldest first, until ``most`` went in all."""
        chosen = dg.RunsFilter(statuses=statuses, updated_before=before)
        cutoff = "failed_before" if statuses == FAILED else "finished_before"
        self._before[cutoff] = before.isoformat(timespec="seconds")
        while (size := min(batch_size, most - self.runs)) > 0:
            records = self._instance.get_run_records(chosen, limit=size, ascending=True)
            if not records:
                return
            for record in records:
                # The folder first: a run without its folder is found again next time, a folder without its run never.
                self._delete_folder(record.dagster_run.run_id)
                self._instance.delete_run(record.dagster_run.run_id)
                self.runs += 1

    def describe(self, most: int) -> dict[str, Any]:
        """What was done, as metadata; ``most`` runs were to be deleted at most."""
        return {
            "runs_deleted": self.runs,
            "run_folders_deleted": self.folders,
            "run_folders_left": len(self.folders_left),
            "run_folders_left_named": self.list_left(),
            "runs_left_to_next_time": self.runs >= most,
            **self._before,
            "vacuumed": ", ".join(self.vacuumed) or "nothing",
        }

    def list_left(self) -> str:
        """The first of the folders that could not be deleted."""
        return "; ".join(self.folders_left[:SHOWN])

    def _delete_folder(self, run_id: str) -> None:
        folder = self._storage_folder / run_id
        if folder.parent == self._storage_folder and folder.is_dir() and not folder.is_symlink():
            try:
                shutil.rmtree(folder)
            except OSError as error:  # the run goes all the same: it would be the first to be tried again, every night
                self.folders_left.append(f"{folder}: {error.strerror}")
            else:
                self.folders += 1


# One connection beside live polling. Nothing joins the ops: one that fails leaves the others their turn, in the order
# of their priorities.
one_at_a_time = build_threaded_executor(name="one_at_a_time", default_max_concurrent=1)


@dg.graph(description="History partitions ahead and behind, keys of old races, Dagster's old runs.")
def maintain() -> None:
    create_history_partitions()
    archive_history()
    remove_old_partitions()
    delete_old_runs()


maintenance_job = maintain.to_job(
    name="maintenance",
    description="History partitions made ahead, old ones archived; keys of old races and Dagster's old runs removed.",
    executor_def=one_at_a_time,
    tags={"dagster/max_retries": "0", "dagster/max_runtime": str(LONGEST_RUN_S), "dagster/priority": "5"},
)
