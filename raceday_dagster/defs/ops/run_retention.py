"""Dagster's own finished runs, after a while: deleted with their events, tags and folders.

Dagster purges ticks only. A run writes a hundred rows and more, and at a poll every 15 s that is gigabytes a day.
Belongs here: which runs go. Does not: SQL, which Dagster's storage has.
"""

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import dagster as dg
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.dagster_plugins.storage import StorageError
from raceday_dagster.logs import get_logger
from raceday_dagster.settings import Settings
from raceday_dagster.store.sql_errors import describe_cause

FAILED = (dg.DagsterRunStatus.FAILURE,)
UNREMARKABLE = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)
SHOWN = 20


@runtime_checkable
class BatchedDeletion(Protocol):
    """What ``raceday_dagster.dagster_plugins.storage`` can and the storages of Dagster cannot."""

    def delete_runs(self, run_ids: Sequence[str]) -> int: ...

    def vacuum(self) -> list[str]: ...


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
    batch_size: int = Field(default=100, ge=1, le=1000, description="Runs deleted at a time.")
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
        deletion.vacuum()
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
    """Deletes runs of an instance and counts what went: in batches where its storage can, else one by one."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        storage = instance.run_storage
        self._instance = instance
        self._batched = storage if isinstance(storage, BatchedDeletion) else None
        self._storage_folder = Path(instance.storage_directory())
        self.runs = 0
        self.folders = 0
        self.folders_left: list[str] = []
        """Those that the system does not let go, with its reason."""
        self.events: int | None = None if self._batched is None else 0
        self.vacuumed: list[str] = []
        self._before: dict[str, str] = {}

    def delete(self, statuses: Sequence[dg.DagsterRunStatus], before: datetime, *, batch_size: int, most: int) -> None:
        """Deletes runs of these statuses that ended before an instant, the oldest first, until ``most`` went in all."""
        chosen = dg.RunsFilter(statuses=statuses, updated_before=before)
        cutoff = "failed_before" if statuses == FAILED else "finished_before"
        self._before[cutoff] = before.isoformat(timespec="seconds")
        while (size := min(batch_size, most - self.runs)) > 0:
            records = self._instance.get_run_records(chosen, limit=size, ascending=True)
            if not records:
                return
            self._delete([record.dagster_run.run_id for record in records])

    def vacuum(self) -> None:
        """Vacuums the tables of runs, on a storage of ours."""
        if self._batched is not None:
            self.vacuumed = self._batched.vacuum()

    def describe(self, most: int) -> dict[str, Any]:
        """What was done, as metadata; ``most`` runs were to be deleted at most."""
        uncounted = dg.MetadataValue.text("not counted by this storage")
        nothing = "nothing" if self._batched else "nothing: this storage is not ours"
        return {
            "runs_deleted": self.runs,
            "run_folders_deleted": self.folders,
            "run_folders_left": len(self.folders_left),
            "run_folders_left_named": self.list_left(),
            "event_rows_deleted": uncounted if self.events is None else self.events,
            "runs_left_to_next_time": self.runs >= most,
            **self._before,
            "vacuumed": ", ".join(self.vacuumed) or nothing,
        }

    def list_left(self) -> str:
        """The first of the folders that could not be deleted."""
        return "; ".join(self.folders_left[:SHOWN])

    def _delete(self, run_ids: list[str]) -> None:
        # Folders first: a run whose folder is gone is found again by the next execution, a folder without a run never.
        for run_id in run_ids:
            self._delete_folder(run_id)
        if self._batched is None:
            for run_id in run_ids:
                self._instance.delete_run(run_id)
        else:
            self.events = (self.events or 0) + self._batched.delete_runs(run_ids)
        self.runs += len(run_ids)

    def _delete_folder(self, run_id: str) -> None:
        folder = self._storage_folder / run_id
        if folder.parent == self._storage_folder and folder.is_dir() and not folder.is_symlink():
            try:
                shutil.rmtree(folder)
            except OSError as error:  # the run goes all the same: it would be the first to be tried again, every night
                self.folders_left.append(f"{folder}: {error.strerror}")
            else:
                self.folders += 1
