"""The sensors: what each asks Dagster and the database, and which job it asks for. Decisions are in ``racing``."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from raceday_dagster.dagster_plugins.machines import is_lost, read_machines
from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.dagster_plugins.run_launcher import find_run_worker
from raceday_dagster.defs.automation.alerts import alerts
from raceday_dagster.defs.automation.due_races import Runs, Shards, Stored, request_due_races
from raceday_dagster.defs.failures import refusing_plainly
from raceday_dagster.defs.jobs import daily_baseline_job, process_races_job
from raceday_dagster.defs.ops.batch import UNFINISHED, find_races_in_config
from raceday_dagster.defs.ops.day import build_day_config
from raceday_dagster.racing.cadence import EPOCH, GRID, LiveBatch
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.first_load import AGAIN_AFTER, LoadAttempt, explain_wait, is_schedules_turn
from raceday_dagster.settings import Settings
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import is_listed, read_answered, read_polled_races
from raceday_dagster.store.race_store import RaceStore

RUN_KEY_TAG = "dagster/run_key"
"""Dagster writes the key of a sensor's request here."""
LOAD_LASTS = timedelta(minutes=15)
"""The ceiling of `daily_baseline`: a run of it that is older polls nothing any more."""

Clock = Callable[[], datetime]


def read_utc_clock() -> datetime:
    """Now."""
    return datetime.now(UTC)


class SensorReader:
    """Reads for one tick. Each call opens what it needs and closes it: a tick sleeps, and the code server lives long.

    Raises ``Refused``, one line, where the settings or the database do not allow an answer.
    """

    def __init__(self, context: dg.SensorEvaluationContext, clock: Clock = read_utc_clock) -> None:
        self._context = context
        self._clock = clock

    def read_runs(self) -> Runs:
        """Runs of the live lane that are at work or were lost, and whether `daily_baseline` is at work."""
        with self._open_instance() as instance:
            unfinished = instance.get_run_records(dg.RunsFilter(tags={LANE_TAG: LIVE}, statuses=UNFINISHED))
            failed = instance.get_run_records(
                dg.RunsFilter(
                    tags={LANE_TAG: LIVE},
                    statuses=[dg.DagsterRunStatus.FAILURE],
                    created_after=self._clock() - 2 * GRID,  # a run key is of one point of the grid
                )
            )
            loading = instance.get_run_records(
                dg.RunsFilter(job_name=daily_baseline_job.name, statuses=[dg.DagsterRunStatus.STARTED])
            )
            machines = read_machines(instance)
        now = self._clock()

        def has_lost_its_process(record: dg.RunRecord) -> bool:
            worker = find_run_worker(record.dagster_run)
            is_gone = worker is not None and worker.is_here() and not worker.is_alive()
            return is_gone or is_lost(record.dagster_run, machines, now)

        # A process may also be gone because its run ended meanwhile; the ledger, which is read later, has that run.
        lost = [record for record in unfinished if has_lost_its_process(record)]
        return Runs(
            live=[_build_batch(record) for record in unfinished if record not in lost],
            is_loading=any(
                abs(now - _find_begin(record)) < LOAD_LASTS and not has_lost_its_process(record) for record in loading
            ),
            lost_keys=frozenset(record.dagster_run.tags.get(RUN_KEY_TAG, "") for record in (*lost, *failed)),
        )

    def read_stored(self, asked: Mapping[str, Collection[str]]) -> Stored:
        """The races in the polling window, and which of those ``asked`` for the ledger has."""
        with refusing_plainly():
            settings = Settings.from_environment()
            with _open_store(settings) as store:
                answered = store.read(read_answered, asked)
                now = self._clock()
                races = store.read(
                    read_polled_races, now, countries=settings.race_countries, categories=settings.race_categories
                )
        return Stored(races, answered, now, settings.far_interval)

    def is_listed(self, racing_day: date) -> bool:
        """Whether the list of a racing day was stored."""
        with refusing_plainly(), _open_store(Settings.from_environment()) as store:
            return store.read(is_listed, racing_day)

    def read_last_load(self) -> LoadAttempt | None:
        """The newest run of `daily_baseline`, or the newest that is not over."""
        of_job = dg.RunsFilter(job_name=daily_baseline_job.name)
        with self._open_instance() as instance:
            unfinished = instance.get_run_records(
                dg.RunsFilter(job_name=daily_baseline_job.name, statuses=UNFINISHED), limit=1
            )
            records = unfinished or instance.get_run_records(of_job, limit=1)
        return LoadAttempt(began_at=_find_begin(records[0]), is_over=not unfinished) if records else None

    @contextmanager
    def _open_instance(self) -> Iterator[dg.DagsterInstance]:
        # The instance of the context would keep its connections open while the tick sleeps.
        if self._context.instance_ref is None:
            yield self._context.instance
        else:
            with dg.DagsterInstance.from_ref(self._context.instance_ref) as instance:
                yield instance


def request_first_load(reader: SensorReader, now: datetime) -> dg.RunRequest | dg.SkipReason:
    """A run of `daily_baseline` for the racing day under way if nobody has loaded it; else why there is none."""
    racing_day = choose_current_racing_day(now)
    if is_schedules_turn(now):
        return dg.SkipReason(f"The schedule is about to load {racing_day}")
    if reader.is_listed(racing_day):
        return dg.SkipReason(f"{racing_day} is loaded")
    reason = explain_wait(reader.read_last_load(), now)
    if reason:
        return dg.SkipReason(f"{racing_day} is not loaded, but {reason}")
    slot = EPOCH + (now - EPOCH) // AGAIN_AFTER * AGAIN_AFTER
    return dg.RunRequest(
        run_key=f"{racing_day} {slot:%Y-%m-%dT%H:%MZ}",
        run_config=build_day_config(racing_day),
    )


# By the names of their jobs: with the jobs themselves, Dagster builds each sensor again to give its job the resources,
# and warns of parameters that it passes itself.
@dg.sensor(
    job_name=process_races_job.name,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Polls the races that are due: a run for all of them, asked for just before they fall due.",
)
def due_races(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    with refusing_plainly():
        settings = Settings.from_environment()
    shards = Shards(settings.races_per_run, settings.runs_per_tick)
    return request_due_races(SensorReader(context), shards, sleep=time.sleep)


@dg.sensor(
    job_name=daily_baseline_job.name,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Loads the racing day under way if its schedule could not: at the first start, or after a failure.",
)
def first_baseline(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return request_first_load(SensorReader(context), read_utc_clock())


SENSORS = (due_races, first_baseline, alerts)


@contextmanager
def _open_store(settings: Settings) -> Iterator[RaceStore]:
    # Without the look at the schema that a run begins with: it would be refused, where a read waits, while runs have
    # every connection of the role.
    engine = build_engine(settings.require_database_url(), pool_max=1)
    try:
        yield RaceStore(engine)
    finally:
        engine.dispose()


def _build_batch(record: dg.RunRecord) -> LiveBatch:
    return LiveBatch(
        run_id=record.dagster_run.run_id,
        race_ids=find_races_in_config(record.dagster_run.run_config),
        created_at=record.create_timestamp,
    )


def _find_begin(record: dg.RunRecord) -> datetime:
    return record.create_timestamp if record.start_time is None else datetime.fromtimestamp(record.start_time, UTC)
