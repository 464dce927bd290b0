"""The sensors on a real day: they read a real database and Dagster's runs, and what they ask for is carried out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Timer

import dagster as dg
import pytest
from sqlalchemy import NullPool, create_engine

from raceday_dagster.dagster_plugins.forked_process import identify
from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.dagster_plugins.run_launcher import WORKER_TAG, RunWorker
from raceday_dagster.defs.automation.due_races import DUE_TAG, LEAD, Shards, request_due_races
from raceday_dagster.defs.automation.sensors import (
    RUN_KEY_TAG,
    SensorReader,
    due_races,
    first_baseline,
    request_first_load,
)
from raceday_dagster.defs.ops.batch import HEAD_START
from raceday_dagster.racing.cadence import floor_to_grid
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.first_load import is_schedules_turn
from raceday_dagster.simulator.running import running_simulator
from raceday_dagster_tests.integration.postgres_fixture import CONNECTION_LIMIT
from raceday_dagster_tests.integration.race_day import IDENTITY, RaceDay, resolve_job, run_job
from raceday_dagster_tests.waiting import wait_for

NO_DATABASE = "postgresql://raceday:hidden@127.0.0.1:1/none"


@dataclass(frozen=True, kw_only=True)
class DayFromNow(RaceDay):
    """A simulated day whose harness races in New Zealand are under way now, loaded as the first sensor asked."""

    load: dg.RunRequest

    def open_context(self) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(instance=self.instance)

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        """One evaluation of ``due_races`` as the code server does it, look ahead included."""
        with self.open_context() as context:
            asked = due_races.evaluate_tick(context)
        return asked.run_requests[0] if asked.run_requests else dg.SkipReason(asked.skip_message)

    def request(self) -> dg.RunRequest:
        """The run that a tick asks for."""
        asked = self.tick()
        assert isinstance(asked, dg.RunRequest), asked.skip_message
        return asked

    def wait_for_request(self) -> dg.RunRequest:
        """The next run that ticks ask for, one after the other."""
        asked: list[dg.RunRequest | dg.SkipReason] = []

        def tick() -> bool:
            asked.append(self.tick())
            return isinstance(asked[-1], dg.RunRequest)

        assert wait_for(tick, 30), asked[-1]
        assert isinstance(asked[-1], dg.RunRequest)
        return asked[-1]

    def execute(self, request: dg.RunRequest, due_at: datetime) -> dg.JobExecutionResult:
        """Carries out a request, whose races are due at another time."""
        config = {"race_ids": read_races(request), "due_at": due_at.isoformat(), "live_races": 1}
        return self.run("process_races", tags=request.tags, select_races=config)

    def set_ledger(self, polled_at: datetime) -> None:
        """As if every poll had been made then."""
        self.ask("UPDATE race_polls SET polled_at = :at", at=polled_at)

    def age_ledger(self) -> None:
        """As if every poll had been made two minutes ago: every race is due."""
        self.set_ledger(datetime.now(UTC) - timedelta(minutes=2))

    def begin_run(self, race_ids: Sequence[str], **tags: str) -> str:
        """A run of the live lane that has started and says nothing more."""
        run = self.instance.create_run_for_job(
            resolve_job("process_races"),
            run_config={"ops": {"select_races": {"config": {"race_ids": list(race_ids)}}}},
            tags={LANE_TAG: LIVE, **tags},
            status=dg.DagsterRunStatus.STARTED,
        )
        return run.run_id

    def fail_run(self, run_id: str) -> None:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        self.instance.report_run_failed(run)

    def count_connections(self) -> int:
        (row,) = self.ask("SELECT count(*) AS open FROM pg_stat_activity WHERE application_name = 'raceday'")
        return int(row["open"])


@dataclass
class HandClock:
    """Goes on by hand."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


def read_races(request: dg.RunRequest) -> list[str]:
    race_ids: list[str] = request.run_config["ops"]["select_races"]["config"]["race_ids"]
    return race_ids


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[DayFromNow]:
    now = datetime.now(UTC)
    racing_day = choose_current_racing_day(now)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        # The first harness race is the sixteenth minute of the programme.
        running_simulator(racing_day=racing_day, first_start=now - timedelta(minutes=14), now=now) as simulator,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        chosen = {"RACE_COUNTRIES": "NZ", "RACE_CATEGORIES": "H"}
        places = {"DATABASE_URL": database_url, "NZTAB_API_URL": simulator.api_url}
        for name, value in {**IDENTITY, **chosen, **places}.items():
            monkeypatch.setenv(name, value)
        load = load_day(instance, now)
        engine = create_engine(database_url, poolclass=NullPool)
        yield DayFromNow(simulator=simulator, instance=instance, engine=engine, load=load)


def load_day(instance: dg.DagsterInstance, now: datetime) -> dg.RunRequest:
    """Carries out what the sensor for the first start asks for, and returns that."""
    while is_schedules_turn(now):
        now += timedelta(minutes=1)
    with dg.build_sensor_context(instance=instance) as context:
        empty = due_races.evaluate_tick(context)
        assert "daily_baseline loads a racing day" in (empty.skip_message or "")
        asked = request_first_load(SensorReader(context), now)
    assert isinstance(asked, dg.RunRequest)
    day = asked.run_config["ops"]["fetch_meetings"]["config"]
    assert run_job(instance, "daily_baseline", fetch_meetings=day).success
    return asked


def test_the_first_start_of_a_day_loads_it_once(day: DayFromNow) -> None:
    with day.open_context() as context:
        again = first_baseline.evaluate_tick(context)
    assert again.run_requests == []
    (loaded,) = day.ask("SELECT racing_day::text FROM racing_days")
    assert day.load.run_config["ops"]["fetch_meetings"]["config"] == dict(loaded)
    (counts,) = day.ask("SELECT count(*) AS races, (SELECT count(*) FROM race_polls) AS polls FROM races")
    assert counts["races"] == counts["polls"] > 10


def test_a_tick_looks_ahead_and_the_run_polls_each_race_when_it_is_due_and_none_twice(day: DayFromNow) -> None:
    # However long the day took to load, every race has its answer until the next slot.
    day.set_ledger(floor_to_grid(datetime.now(UTC)))
    asked_at = datetime.now(UTC)
    asked = day.wait_for_request()
    due_at = datetime.fromisoformat(asked.tags[DUE_TAG])
    assert due_at == floor_to_grid(due_at) > asked_at - LEAD, "the tick did not look ahead"
    # A little later than it is: this launch may take longer than the one the sensor is early for.
    due_at += timedelta(seconds=2)
    result = day.execute(asked, due_at)
    assert result.success
    polls = day.ask("SELECT race_id, polled_at FROM race_polls WHERE run_id = :run", run=result.run_id)
    assert sorted(poll["race_id"] for poll in polls) == sorted(read_races(asked))
    live, *others = read_races(asked)
    polled_at = {poll["race_id"]: poll["polled_at"] for poll in polls}
    assert polled_at[live] >= due_at
    assert all(polled_at[race_id] >= due_at + HEAD_START for race_id in others)
    metadata = [event.step_output_data.metadata for event in result.all_events if event.is_successful_output]
    (said,) = [figures for figures in metadata if "waited_ms" in figures]
    assert said["due_at"].value == due_at.isoformat()
    (batch,) = day.ask("SELECT started_at FROM batches WHERE run_id = :run", run=result.run_id)
    assert batch["started_at"] >= due_at
    with day.open_context() as context:
        # By the clock of the last poll: on a busy machine the run ends when the next slot is near.
        now = max(poll["polled_at"] for poll in polls)
        after = request_due_races(SensorReader(context, lambda: now), Shards(), sleep=refuse_to_sleep)
    assert isinstance(after, dg.SkipReason)
    assert "races is due; the next at" in (after.skip_message or "")


def refuse_to_sleep(_seconds: float) -> None:
    raise AssertionError("a race is due within six seconds of its poll")


def test_two_ticks_never_claim_one_race(day: DayFromNow) -> None:
    day.age_ledger()
    due = read_races(day.request())
    run_id = day.begin_run(due[:2])
    assert not set(read_races(day.request())) & set(due[:2])
    day.ask(
        "INSERT INTO race_polls (run_id, race_id, polled_at, status, fetch_ms, transform_ms, write_ms, total_ms,"
        " meetings_rows, races_rows, entrants_rows, race_pools_rows, money_flow_history_rows, odds_history_rows,"
        " race_results_rows)"
        " SELECT :run, :race, now() - interval '2 minutes', 'success', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
        run=run_id,
        race=due[0],
    )
    assert due[0] in read_races(day.request())
    assert due[1] not in read_races(day.request())
    day.fail_run(run_id)
    assert due[1] in read_races(day.request())


def test_a_run_that_crashed_leaves_its_races_to_the_next_tick(day: DayFromNow) -> None:
    day.age_ledger()
    first = day.request()
    crashed = day.begin_run(read_races(first), **{RUN_KEY_TAG: str(first.run_key)})
    day.fail_run(crashed)
    again = day.request()
    assert read_races(again) == read_races(first)
    assert again.run_key != first.run_key, "Dagster would not launch it"


def test_a_run_whose_process_is_gone_holds_no_race_though_nobody_has_marked_it(day: DayFromNow) -> None:
    day.age_ledger()
    first = day.request()
    lost = day.begin_run(read_races(first), **{RUN_KEY_TAG: str(first.run_key)})
    here = identify(os.getpid())
    try:
        for born, held in ((here.born, True), (here.born + 1, False)):
            worker = RunWorker(run_id=lost, pid=here.pid, born=born, host=here.host)
            day.instance.add_run_tags(lost, {WORKER_TAG: worker.model_dump_json()})
            asked = day.tick()
            assert (not isinstance(asked, dg.RunRequest) or read_races(asked) != read_races(first)) is held
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_key != first.run_key
    finally:
        day.fail_run(lost)


def test_a_tick_holds_no_connection_while_it_sleeps_and_leaves_none_behind(day: DayFromNow) -> None:
    slot = floor_to_grid(datetime.now(UTC))
    day.set_ledger(slot)
    clock = HandClock(slot + timedelta(seconds=10))
    counted: list[int] = []

    def count_and_go_on(seconds: float) -> None:
        counted.append(day.count_connections())
        clock.now += timedelta(seconds=seconds)

    with day.open_context() as context:
        request_due_races(SensorReader(context, clock), Shards(), sleep=count_and_go_on)
    assert counted == [0]
    assert day.count_connections() == 0


def test_a_tick_waits_for_a_connection_while_runs_have_them_all(day: DayFromNow) -> None:
    day.age_ledger()
    held = [day.engine.connect() for _ in range(CONNECTION_LIMIT)]
    freeing = Timer(0.5, held.pop().close)
    freeing.start()
    try:
        asked = day.tick()
    finally:
        freeing.join()
        for connection in held:
            connection.close()
    assert isinstance(asked, dg.RunRequest)


def test_an_unreachable_database_fails_the_tick_with_one_line(day: DayFromNow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", NO_DATABASE)
    for sensor in (due_races, first_baseline):
        if sensor is first_baseline and is_schedules_turn(datetime.now(UTC)):
            continue
        with day.open_context() as context, pytest.raises(dg.DagsterError, match="cannot be reached") as failure:
            sensor.evaluate_tick(context)
        assert "\n" not in str(failure.value)
        assert "hidden" not in str(failure.value)
