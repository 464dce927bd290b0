"""A clock that ran ahead: what it left in the future is dated back, and Dagster and the schedule go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._daemon.sensor import is_under_min_interval
from pydantic import SecretStr

from raceday_dagster.racing.cadence import find_next_slot, plan_polls
from raceday_dagster.sandbox.sandbox import write_instance_config
from raceday_dagster.service.dagster_instance import open_instance
from raceday_dagster.service.wall_clock import WallClock, describe_step, put_back_all
from raceday_dagster.store.queries import read_polled_races
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import observe, open_store, write
from raceday_dagster_tests.write_snapshots import make_snapshot

AHEAD = [timedelta(minutes=10), timedelta(hours=2)]
LOCATION = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name="raceday_dagster")


@pytest.fixture(scope="module")
def instance(empty_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("dagster")
    write_instance_config(home)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_PG_URL", "")  # which opening an instance sets
        with open_instance({"DAGSTER_HOME": str(home), "DAGSTER_PG_URL": empty_database_url}) as instance:
            yield instance


@pytest.fixture(autouse=True)
def _forgotten(instance: dg.DagsterInstance) -> None:
    """Each test with its own sensors and schedules only."""
    for state in instance.all_instigator_state():
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before=4e9)
        instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)


def plant(instance: dg.DagsterInstance, name: str, data: SensorInstigatorData | ScheduleInstigatorData) -> Any:
    """A sensor or schedule that ran ahead, and its last tick."""
    kind = InstigatorType.SENSOR if isinstance(data, SensorInstigatorData) else InstigatorType.SCHEDULE
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(LOCATION, "__repository__"), name)
    state = InstigatorState(origin, kind, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(state)
    at_s = max(value for key, value in data._asdict().items() if key.endswith("_timestamp") and value)
    tick = TickData(state.instigator_origin_id, name, kind, TickStatus.SKIPPED, at_s, selector_id=state.selector_id)
    instance.create_tick(tick)
    return state


def read(instance: dg.DagsterInstance, state: Any) -> Any:
    found = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    assert found is not None
    return found


@pytest.mark.parametrize("ahead", AHEAD)
def test_what_a_clock_left_in_the_future_is_dated_back_and_races_are_polled_at_their_next_slot(
    ahead: timedelta, instance: dg.DagsterInstance, database_url: str
) -> None:
    now = datetime.now(UTC)
    then_s = (now + ahead).timestamp()
    sensor = plant(instance, "due_races", SensorInstigatorData(then_s, last_tick_start_timestamp=then_s, cursor="kept"))
    schedule = plant(instance, "meeting_status_schedule", ScheduleInstigatorData("*/15 * * * *", None, then_s))
    polls_every_s = cast(Any, SimpleNamespace(min_interval_seconds=1))
    said: list[str] = []
    with open_store(database_url) as store, observe(database_url) as run:
        store.write_racing_day(make_list(["race-1", "race-2"]))
        write(store, make_snapshot("race-1", poll=1))
        run(
            "UPDATE races SET start_time = %(start)s, api_generated_time = %(then)s",
            {"start": now + timedelta(minutes=2), "then": now + ahead},
        )
        run("UPDATE race_polls SET polled_at = %(then)s", {"then": now + ahead})
        # The fault: Dagster runs the sensor no more, and no answer counts as newer.
        assert is_under_min_interval(read(instance, sensor), polls_every_s)
        assert run("SELECT count(*) FROM races WHERE api_generated_time > %(now)s", {"now": now}) == [(2,)]

        put_back_all(instance, SecretStr(database_url), said.append, lambda: now)

        assert said == [
            "the clock ran ahead: 2 ticks, 2 sensors or schedules, 1 polls, 2 answers lay in the future and count as "
            "of now; polling goes on"
        ]
        polled = store.read(read_polled_races, now, countries=["NZ"], categories=["T"])[0]
        assert run("SELECT DISTINCT api_generated_time FROM races") == [(now,)]
    assert polled.last_poll_time == polled.newest_poll_time == now
    assert plan_polls([polled], (), now).next_due_at == find_next_slot(polled, now)
    later = read(instance, sensor).instigator_data
    assert later.last_tick_start_timestamp == later.last_tick_timestamp == now.timestamp()
    assert later.cursor == "kept"
    assert read(instance, schedule).instigator_data.last_iteration_timestamp == now.timestamp()
    for state in (sensor, schedule):
        (tick,) = instance.get_ticks(state.instigator_origin_id, state.selector_id)
        assert (tick.timestamp, tick.status) == (now.timestamp(), TickStatus.SKIPPED)


def test_the_history_of_a_clock_that_ran_ahead_keeps_its_order_and_its_sums_and_the_next_poll_follows_it(
    instance: dg.DagsterInstance, database_url: str
) -> None:
    now = datetime.now(UTC)
    amounts, ahead = (1_000, 1_500, 1_700, 2_500), timedelta(minutes=10)
    times = (now - timedelta(seconds=30), now + ahead, now + ahead + timedelta(seconds=15), now + timedelta(seconds=15))

    def poll(number: int) -> None:
        prices = {(1, "fixed_win"): f"{2 + number}.00"}
        write(
            store,
            make_snapshot(
                "ahead", win_cents=amounts[number], odds=prices, generated_at=times[number], polled_at=times[number]
            ),
        )

    with open_store(database_url) as store, observe(database_url) as run:
        for number in range(3):
            poll(number)
        put_back_all(instance, SecretStr(database_url), lambda _: None, lambda: now)
        poll(3)
        flow = run(
            "SELECT polling_timestamp, sum(incremental_win_amount), sum(win_pool_amount) FROM money_flow_history"
            " WHERE race_id = 'ahead' GROUP BY 1 ORDER BY 1"
        )
        odds = run("SELECT event_timestamp, odds FROM odds_history WHERE race_id = 'ahead' ORDER BY 1")
        pools = run("SELECT polling_timestamp FROM pool_history WHERE race_id = 'ahead' ORDER BY 1")
        polled_at = run("SELECT last_poll_time FROM races WHERE race_id = 'ahead'")
    moved = [times[0], now + timedelta(microseconds=1), now + timedelta(microseconds=2), times[3]]
    assert [at for at, _, _ in flow] == moved
    assert sum(added for _, added, _ in flow) == flow[-1][2]
    assert [held for _, _, held in flow] == sorted(held for _, _, held in flow)
    assert [(at, int(price)) for at, price in odds] == [(at, 2 + number) for number, at in enumerate(moved)]
    assert [at for (at,) in pools] == moved
    assert polled_at == [(times[3],)]


def test_what_is_not_ahead_is_left_alone_without_a_word(instance: dg.DagsterInstance, database_url: str) -> None:
    now = datetime.now(UTC)
    sensor = plant(instance, "due_races", SensorInstigatorData(now.timestamp(), last_run_key="key"))
    said: list[str] = []
    with open_store(database_url) as store, observe(database_url) as run:
        write(store, make_snapshot("race-1", poll=1))
        before = run("SELECT polled_at FROM race_polls")
        put_back_all(instance, SecretStr(database_url), said.append, lambda: now)
        assert run("SELECT polled_at FROM race_polls") == before
    assert said == []
    assert read(instance, sensor) == sensor


def test_a_database_that_is_away_is_said_in_one_line(instance: dg.DagsterInstance) -> None:
    said: list[str] = []
    put_back_all(instance, SecretStr("postgresql://u:p@127.0.0.1:1/d"), said.append)
    assert said == ["whether anything is stored ahead of the clock could not be looked at: a database does not answer"]


@pytest.mark.parametrize(
    ("set_by_s", "said"),
    [
        (600, "jumped ahead by 10 min"),
        (-600, "went back by 10 min"),
        (7200, "jumped ahead by 2 h"),
        (-8, "went back by 8 s"),
    ],
)
def test_a_clock_that_was_set_is_noticed_once(set_by_s: int, said: str) -> None:
    now, passed_s = datetime(2026, 3, 1, tzinfo=UTC), 0.0
    clock = WallClock(lambda: now, lambda: passed_s)
    now, passed_s = now + timedelta(seconds=1), passed_s + 1
    assert clock.read_step() == timedelta(0)
    now, passed_s = now + timedelta(seconds=1 + set_by_s), passed_s + 1
    step = clock.read_step()
    assert step == timedelta(seconds=set_by_s)
    assert describe_step(step) == said
    assert clock.read_step() == timedelta(0)


def test_a_clock_that_is_slewed_is_none_that_was_set() -> None:
    now, passed_s = datetime(2026, 3, 1, tzinfo=UTC), 0.0
    clock = WallClock(lambda: now, lambda: passed_s)
    for _ in range(100):
        now, passed_s = now + timedelta(seconds=1.2), passed_s + 1
        assert clock.read_step() == timedelta(0)
