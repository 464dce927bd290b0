"""Both ends of a batch: which races are in it and when they fall due, and what it came to."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.defs.assets import describe_batch, report_settled
from raceday_dagster.defs.concurrency import choose_concurrency, read_limit, read_requested_concurrency
from raceday_dagster.defs.failures import failing_plainly
from raceday_dagster.defs.partitions import build_mapping_key, find_race
from raceday_dagster.defs.reporting import (
    ProgressBoard,
    build_failure_tags,
    build_summary_metadata,
    is_over,
    log_pool_use,
    log_summary,
    report_live_polls,
    report_recovered,
    report_unanswered,
    warn_of_budgets,
)
from raceday_dagster.defs.signals import NO_SIGNALS, build_signal_metadata, find_batch_signals, send_signals
from raceday_dagster.errors import DatabaseError, WriteError
from raceday_dagster.fetch.client import RacingApi
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.cadence import plan_polls
from raceday_dagster.racing.outcomes import (
    BATCH_BUDGET_MS,
    BatchOutcome,
    BatchResults,
    ProcessResult,
    RaceFacts,
)
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings
from raceday_dagster.store.ledger import RecoveredRace, read_recovered_races
from raceday_dagster.store.queries import FollowedRace, read_followed_races, read_polled_races
from raceday_dagster.store.race_store import PollRun, RaceStore
from raceday_dagster.workers.pool import TransformWorkers

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of a run that has not ended."""
SHORTEST_PAUSE_S = 0.001
LONGEST_WAIT_S = 5.0
"""Longest wait for ``due_at``; short enough for a run that is asked to end while it waits."""
HEAD_START = timedelta(seconds=0.1)
"""Of the races in their last minutes: five answers that come at once share one interpreter and two processors, and the
races that are bet on would wait for the others' calculations."""


class Batch(Record):
    """What ``summarise_batch`` must know of the beginning."""

    started_at: datetime
    started_s: float
    """Reading of ``time.monotonic``."""
    budget_ms: int
    requested_concurrency: int
    effective_concurrency: int


class SelectRaces(dg.Config):
    """Which races to poll."""

    race_ids: list[str] = Field(
        default=[],
        description="Races to poll, each once, in this order. Empty: every stored race that is due now.",
    )
    due_at: str = Field(
        default="",
        description="When the races fall due, as an instant with its zone: the first fetch waits for it, at most 5 s. "
        "Empty, or past: no wait.",
    )
    live_races: int = Field(
        default=0,
        ge=0,
        description="How many of the first races are in their last five minutes or have started. If any, the others "
        "are asked about 0.1 s after due_at.",
    )


class FailRunWhen(Enum):
    """When a batch with failed races makes its run red. Members are named as they are written in a run config."""

    all = "all"
    any = "any"
    never = "never"


class SummariseBatch(dg.Config):
    """How to judge a batch."""

    fail_run_when: FailRunWhen | None = Field(
        default=None,
        description="Fail the run, after its summary is stored: when none of its races or images succeeded and one "
        "failed or is not known to the API (all), when any failed as well (any), or never. Not set: FAIL_RUN_WHEN for "
        "the runs of the sensor, all for others.",
    )


def find_races_in_config(run_config: Mapping[str, Any]) -> tuple[str, ...]:
    """``race_ids`` of ``select_races`` in a run's config; empty without any."""
    return tuple(str(race_id) for race_id in _read_selection(run_config).get("race_ids") or ())


def describe_run(context: dg.OpExecutionContext) -> PollRun:
    """The run of a step, as the ledger keeps it."""
    due_at = parse_due_at(str(_read_selection(context.run.run_config).get("due_at") or ""))
    return PollRun(run_id=context.run_id, lane=context.run.tags.get(LANE_TAG), due_at=due_at)


def find_request_time(run_config: Mapping[str, Any], race_id: str) -> datetime | None:
    """The earliest instant to ask the API about a race: ``HEAD_START`` after its batch fell due, if others of the batch
    are in their last minutes and it is not. ``None``: at once."""
    selection = _read_selection(run_config)
    due_at, live_races = parse_due_at(str(selection.get("due_at") or "")), int(selection.get("live_races") or 0)
    if due_at is None or not live_races or race_id in find_races_in_config(run_config)[:live_races]:
        return None
    return due_at + HEAD_START


def _read_selection(run_config: Mapping[str, Any]) -> Mapping[str, Any]:
    select_races = (run_config.get("ops") or {}).get("select_races") or {}
    return select_races.get("config") or {}


@dg.op(
    description="The races of this batch: those asked for, or every stored race that is due.",
    out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch)},
)
def select_races(
    context: dg.OpExecutionContext,
    config: SelectRaces,
    settings: dg.ResourceParam[Settings],
    racing_api: dg.ResourceParam[RacingApi],
    race_store: dg.ResourceParam[RaceStore],
    transform_workers: dg.ResourceParam[TransformWorkers],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[str]]:
    due_at = parse_due_at(config.due_at)
    with failing_plainly():
        # A worker and connections: what can be ready before the races are due, is.
        transform_workers.start(1)
        if due_at:
            requested = read_requested_concurrency(context.run.run_config)
            racing_api.connect_ahead(min(len(config.race_ids), choose_concurrency(requested, None)))
        race_store.ensure_partitions()
        waited = wait_until(due_at) if due_at else {}
        race_ids = list(dict.fromkeys(config.race_ids)) or _read_due_races(context, settings, race_store)
    yield from send_races(context, race_ids, race_store, progress_board, budget_ms=BATCH_BUDGET_MS, metadata=waited)


@dg.op(description="The race of this run's partition.", out={"races": dg.DynamicOut(str), "batch": dg.Out(Batch)})
def select_race(
    context: dg.OpExecutionContext,
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[str]]:
    if not context.has_partition_key:
        raise dg.Failure(
            "process_race polls the race of its partition and was given none: choose one in the UI, or type "
            "process_races with race_ids",
            allow_retries=False,
        )
    with failing_plainly():
        race_store.ensure_partitions()
        race_id = find_race(race_store, context.partition_key)
    yield from send_races(context, [race_id], race_store, progress_board, budget_ms=BATCH_BUDGET_MS)


def send_races(
    context: dg.OpExecutionContext,
    race_ids: Sequence[str],
    race_store: RaceStore,
    board: ProgressBoard,
    *,
    budget_ms: int,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[str]]:
    """The outputs of an op that begins a batch: the batch, then each race under a mapping key of its own."""
    batch = begin_batch(context, len(race_ids), race_store, board, budget_ms=budget_ms)
    yield dg.Output(batch, "batch", metadata={"races": len(race_ids), **(metadata or {})})
    for race_id in race_ids:
        yield dg.DynamicOutput(race_id, build_mapping_key(race_id), "races")


def begin_batch(
    context: dg.OpExecutionContext,
    total: int,
    race_store: RaceStore,
    board: ProgressBoard,
    *,
    budget_ms: int = BATCH_BUDGET_MS,
) -> Batch:
    """Starts the clock, the counters and the log of a batch of so many races or images."""
    gauge = race_store.gauge
    requested = read_requested_concurrency(context.run.run_config)
    batch = Batch(
        started_at=datetime.now(UTC),
        started_s=time.monotonic(),
        budget_ms=budget_ms,
        requested_concurrency=requested,
        effective_concurrency=choose_concurrency(requested, read_limit(context.run.tags)),
    )
    gauge.reset_peak()
    board.begin(total)
    get_logger(run_id=context.run_id).info(
        "batch_start",
        total=total,
        requested_concurrency=requested,
        effective_concurrency=batch.effective_concurrency,
        db_pool={"max": gauge.max, "in_use": gauge.in_use},
    )
    log_pool_use(context.run_id, gauge.in_use, gauge.max, gauge.waiting, opened=gauge.opened)
    return batch


def _read_due_races(context: dg.OpExecutionContext, settings: Settings, race_store: RaceStore) -> list[str]:
    now = datetime.now(UTC)
    stored = race_store.read(
        read_polled_races, now, countries=settings.race_countries, categories=settings.race_categories
    )
    due = plan_polls(stored, (), now, far_interval=settings.far_interval).race_ids
    if not due:
        known = f"{len(stored)} races are stored around now" if stored else "no race is stored around now"
        context.log.info(f"Nothing is due: {known}. `daily_baseline` loads a racing day.")
    return list(due)


def parse_due_at(text: str) -> datetime | None:
    """The instant of a run's config; ``None`` without one.

    Raises:
        dagster.Failure: What was given is no instant with a zone.
    """
    if not text:
        return None
    try:
        due_at = datetime.fromisoformat(text)
    except ValueError:
        due_at = None
    if due_at is None or due_at.tzinfo is None:
        raise dg.Failure(
            f"due_at must be an instant with its zone like 2026-01-31T01:23:45+00:00, not {text!r}",
            allow_retries=False,
        )
    return due_at.astimezone(UTC)


def wait_until(
    due_at: datetime,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, int | str]:
    """Sleeps until an instant, never longer than ``LONGEST_WAIT_S``; returns what to say of it as metadata."""
    waited_s = 0.0
    # Once is not always enough: the clock of instants and the clock that sleeps by are two.
    while (early_s := (due_at - clock()).total_seconds()) > 0 and waited_s < LONGEST_WAIT_S:
        pause_s = min(max(early_s, SHORTEST_PAUSE_S), LONGEST_WAIT_S - waited_s)
        sleep(pause_s)
        waited_s += pause_s
    behind_s = max(0.0, (clock() - due_at).total_seconds())
    return {
        "due_at": due_at.isoformat(),
        "waited_ms": round(1000 * waited_s),
        "behind_due_ms": round(1000 * behind_s),
    }


@dg.op(
    description="What the batch came to: stored, logged and shown, also when every race failed.",
    out=dg.Out(BatchOutcome),
)
def summarise_batch(
    context: dg.OpExecutionContext,
    config: SummariseBatch,
    batch: Batch,
    races: list[ProcessResult],
    settings: dg.ResourceParam[Settings],
    race_store: dg.ResourceParam[RaceStore],
    transform_workers: dg.ResourceParam[TransformWorkers],
) -> Iterator[dg.Output[BatchOutcome]]:
    workers = transform_workers.metrics().use
    is_live = context.run.tags.get(LANE_TAG) == LIVE
    stored = _read_stored(
        context, [race for race in races if not race.success or (is_live and is_over(race))], race_store
    )
    outcome = BatchOutcome.of(
        [_name_from_store(race, stored) for race in races],
        started_at=batch.started_at,
        batch_duration_ms=round(1000 * (time.monotonic() - batch.started_s)),
        budget_ms=batch.budget_ms,
        requested_concurrency=batch.requested_concurrency,
        effective_concurrency=batch.effective_concurrency,
        db_pool=race_store.gauge.read_use(),
        workers=workers,
    )
    log_summary(context.run_id, outcome)
    warn_of_budgets(context, outcome)
    if is_live:
        report_live_polls(context.run_id, outcome, {race_id: race.polls for race_id, race in stored.items()})
        report_recovered(context.run_id, outcome, _read_recovered(context, outcome, race_store))
    report_unanswered(context.run_id, outcome, list(stored.values()), datetime.now(UTC))
    if tags := build_failure_tags(outcome):
        context.instance.add_run_tags(context.run_id, tags)
    not_recorded = _record_batch(context, outcome, race_store)
    # A database that has just refused the ledger is not asked again.
    found = NO_SIGNALS if not_recorded else find_batch_signals(context, outcome, settings, race_store)
    _report_assets(context, batch, outcome, race_store)
    # The UI has the outcome even when the ledger cannot be written.
    yield dg.Output(outcome, metadata={**build_summary_metadata(outcome), **build_signal_metadata(found)})
    send_signals(context, found.news, settings)
    with failing_plainly():
        if not_recorded is not None:
            raise not_recorded
    policy = config.fail_run_when or FailRunWhen(settings.fail_run_when if is_live else "all")
    if is_failed(outcome, policy):
        raise dg.Failure(
            f"{outcome.failures} of {outcome.total_races} races failed "
            f"({outcome.retryable_failures} may succeed at the next poll), {outcome.skipped} were skipped; "
            "the summary is stored, and each race's reason is in its steps and in the table race_polls",
            allow_retries=False,
        )


def _report_assets(context: dg.OpExecutionContext, batch: Batch, outcome: BatchOutcome, race_store: RaceStore) -> None:
    """Tells the catalogue of a batch, unless it loads a day, and of the races that are over with it."""
    if batch.budget_ms == BATCH_BUDGET_MS:
        context.log_event(describe_batch(outcome, describe_run(context).due_at))
    if over := [race.race_id for race in outcome.races if is_over(race)]:
        report_settled(context, race_store, over)


def _record_batch(context: dg.OpExecutionContext, outcome: BatchOutcome, race_store: RaceStore) -> WriteError | None:
    """Puts the batch into the ledger; the error if it is not there."""
    try:
        race_store.record_batch(describe_run(context), outcome)
    except WriteError as error:
        return error
    return None


def is_failed(outcome: BatchResults[Any], policy: FailRunWhen) -> bool:
    """Whether the run of this batch is red under a policy. An empty batch never is."""
    if policy is FailRunWhen.never:
        return False
    return not outcome.has_answer or (policy is FailRunWhen.any and outcome.failures > 0)


def _read_stored(
    context: dg.OpExecutionContext, races: Sequence[ProcessResult], race_store: RaceStore
) -> dict[str, FollowedRace]:
    """What is stored of these races, by id: their names, when they last had an answer, how often they were polled."""
    race_ids = [race.race_id for race in races]
    try:
        return {race.race_id: race for race in race_store.read(read_followed_races, race_ids)} if race_ids else {}
    except DatabaseError as error:
        context.log.warning(f"The names and polls of races could not be read: {error}")
        return {}


def _read_recovered(
    context: dg.OpExecutionContext, outcome: BatchOutcome, race_store: RaceStore
) -> Sequence[RecoveredRace]:
    race_ids = [race.race_id for race in outcome.races if race.success]
    try:
        return race_store.read(read_recovered_races, race_ids, context.run_id) if race_ids else ()
    except DatabaseError as error:
        context.log.warning(f"Whether the polls before had failed could not be read: {error}")
        return ()


def _name_from_store(race: ProcessResult, stored: Mapping[str, FollowedRace]) -> ProcessResult:
    known = stored.get(race.race_id)
    if race.race or known is None:
        return race
    facts = RaceFacts(title=known.title, start_time=known.start_time, status=known.status)
    return race.model_copy(update={"race": facts})
