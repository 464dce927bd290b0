"""The tick of the sensor `due_races`, called as a function: what it reads is made up, and nobody really sleeps."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.defs.automation import due_races as ticks
from raceday_dagster.defs.automation.due_races import LEAD, MOST_RACES, Runs, Shards, Stored, request_due_races
from raceday_dagster.defs.automation.sensors import SENSORS, due_races
from raceday_dagster.defs.concurrency import DEFAULT_CONCURRENCY
from raceday_dagster.defs.ops.race import FETCH_SHARE, LEDGER_DEADLINE_S
from raceday_dagster.racing.cadence import CLAIM_LASTS, LiveBatch, PolledRace
from raceday_dagster.settings import Settings
from raceday_dagster_tests.log_contract import SENSOR_EVENTS, find_wrong

SLOT = datetime(2026, 9, 26, 2, 0, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)

ONE_MACHINE = Shards()


@dataclass
class Day:
    """A made-up day: races, runs, a ledger, and a clock that moves when somebody sleeps."""

    now: datetime
    races: list[PolledRace] = field(default_factory=list)
    live: list[LiveBatch] = field(default_factory=list)
    answered: set[tuple[str, str]] = field(default_factory=set)
    is_loading: bool = False
    lost_keys: set[str] = field(default_factory=set)
    slept: list[float] = field(default_factory=list)
    looks_at_runs: int = 0
    while_asleep: Callable[[], None] = lambda: None

    def read_runs(self) -> Runs:
        self.looks_at_runs += 1
        return Runs(live=self.live, is_loading=self.is_loading, lost_keys=self.lost_keys)

    def read_stored(self, asked: Mapping[str, Collection[str]]) -> Stored:
        pairs = {(run_id, race_id) for run_id, race_ids in asked.items() for race_id in race_ids}
        return Stored(races=self.races, answered=self.answered & pairs, read_at=self.now)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        self.while_asleep()

    def add_race(self, race_id: str = "r", *, start_in_s: float = 100, polled_at: datetime | None = None) -> None:
        start = SLOT + timedelta(seconds=start_in_s)
        self.races.append(
            PolledRace(
                race_id=race_id,
                start_time=start,
                status="open",
                last_poll_time=polled_at,
                newest_poll_time=polled_at,
            )
        )

    def add_batch(self, *race_ids: str, age: timedelta = SECOND) -> str:
        run_id = f"run-{len(self.live)}"
        self.live.append(LiveBatch(run_id=run_id, race_ids=race_ids, created_at=self.now - age))
        return run_id

    def tick(self, shards: Shards = ONE_MACHINE) -> list[dg.RunRequest] | dg.SkipReason:
        return request_due_races(self, shards, sleep=self.sleep)

    def request(self) -> dg.RunRequest:
        asked = self.tick()
        assert isinstance(asked, list), asked.skip_message
        (only,) = asked
        return only

    def skip(self) -> str:
        skipped = self.tick()
        assert isinstance(skipped, dg.SkipReason)
        return skipped.skip_message or ""


def read_config(request: dg.RunRequest) -> dict[str, Any]:
    config: dict[str, Any] = request.run_config["ops"]["select_races"]["config"]
    return config


def read_races(request: dg.RunRequest) -> list[str]:
    race_ids: list[str] = read_config(request)["race_ids"]
    return race_ids


def test_without_a_stored_race_the_tick_says_what_loads_some() -> None:
    day = Day(SLOT)
    assert "daily_baseline loads a racing day" in day.skip()
    assert (day.slept, day.looks_at_runs) == ([], 0)


def test_with_nothing_due_the_tick_says_how_many_are_watched_and_when_the_next_is_due() -> None:
    day = Day(SLOT + 6 * SECOND)
    day.add_race("a", polled_at=SLOT)
    day.add_race("b", polled_at=SLOT)
    assert day.skip() == "None of 2 races is due; the next at 2026-09-26T02:00:30Z, in 9 s"
    assert (day.slept, day.looks_at_runs) == ([], 0)


def test_all_races_due_make_one_run_the_earliest_start_first() -> None:
    day = Day(SLOT)
    day.add_race("later", start_in_s=301, polled_at=SLOT - 60 * SECOND)
    day.add_race("sooner", start_in_s=300)
    day.add_race("started", start_in_s=-100)
    day.add_race("not due", start_in_s=50, polled_at=SLOT)
    request = day.request()
    wanted = {"race_ids": ["started", "sooner", "later"], "due_at": SLOT.isoformat(), "live_races": 2}
    assert read_config(request) == wanted
    assert request.tags == {LANE_TAG: LIVE, "raceday/due_at": SLOT.isoformat(), "dagster/max_runtime": "300"}
    assert day.slept == []


def test_the_tick_sleeps_until_just_before_the_next_race_is_due_and_then_looks_again() -> None:
    day = Day(SLOT - 5.5 * SECOND)
    day.add_race("a", polled_at=SLOT - 14 * SECOND)
    day.while_asleep = lambda: day.add_race("new")
    request = day.request()
    assert day.slept == [(5.5 * SECOND - LEAD).total_seconds()]
    assert day.now == SLOT - LEAD
    assert sorted(read_races(request)) == ["a", "new"]
    assert read_config(request)["due_at"] == SLOT.isoformat()


def test_a_race_that_ends_while_the_tick_sleeps_is_not_asked_for() -> None:
    day = Day(SLOT - 5 * SECOND)
    day.add_race("a", polled_at=SLOT - 14 * SECOND)
    day.while_asleep = day.races.clear
    assert "daily_baseline" in day.skip()
    assert len(day.slept) == 1


def test_a_tick_does_not_look_further_ahead_than_to_the_next_tick() -> None:
    day = Day(SLOT - 6 * SECOND - timedelta(microseconds=1))
    day.add_race("a", polled_at=SLOT - 14 * SECOND)
    assert "in 6 s" in day.skip()
    assert day.slept == []


def test_a_clock_that_is_set_back_while_the_tick_sleeps_does_not_keep_it() -> None:
    day = Day(SLOT - 5 * SECOND)
    day.add_race("a", polled_at=SLOT - 14 * SECOND)

    def set_back() -> None:
        day.now -= 4 * SECOND

    day.while_asleep = set_back
    assert "None of 1 races is due" in day.skip()
    assert sum(day.slept) < 6


def test_a_race_whose_poll_is_in_flight_is_left_out_until_the_ledger_has_it() -> None:
    day = Day(SLOT)
    day.add_race("a", polled_at=SLOT - 20 * SECOND)
    day.add_race("b", polled_at=SLOT - 20 * SECOND)
    run_id = day.add_batch("a", "b")
    assert "The polls of 2 of 2 races are in flight" in day.skip()
    day.answered.add((run_id, "b"))
    assert read_races(day.request()) == ["b"]


def test_a_tick_with_a_race_in_flight_still_looks_ahead_for_the_others() -> None:
    day = Day(SLOT - 4 * SECOND)
    day.add_race("slow", polled_at=SLOT - 40 * SECOND)
    day.add_race("b", polled_at=SLOT - 14 * SECOND)
    day.add_batch("slow")
    assert read_races(day.request()) == ["b"]
    assert day.now == SLOT - LEAD


def test_a_run_that_makes_no_progress_holds_its_place_but_no_race() -> None:
    day = Day(SLOT)
    day.add_race("a", polled_at=SLOT - 20 * SECOND)
    day.add_batch("a", age=CLAIM_LASTS)
    assert read_races(day.request()) == ["a"]
    for _another in range(ONE_MACHINE.most_batches - 1):
        day.add_batch("a", age=10 * CLAIM_LASTS)
    assert "4 live batches are not over" in day.skip()


def test_the_races_of_one_run_end_while_their_claim_lasts_though_the_api_never_answers() -> None:
    longest_s = FETCH_SHARE * Settings.from_environment({}).race_deadline_s + LEDGER_DEADLINE_S
    assert MOST_RACES / DEFAULT_CONCURRENCY * longest_s <= CLAIM_LASTS.total_seconds()


def test_every_line_of_a_tick_has_the_fields_of_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    day = Day(SLOT)
    day.add_race("nearer", start_in_s=290, polled_at=SLOT - 60 * SECOND)
    day.add_race("in flight", polled_at=SLOT - 20 * SECOND)
    day.add_batch("in flight")
    assert read_races(day.request()) == ["nearer"]
    for number in range(ONE_MACHINE.most_batches):
        day.add_batch(f"other-{number}")
    day.skip()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert find_wrong(lines, SENSOR_EVENTS, in_run=False) == []
    assert [line["event"] for line in lines] == [
        "scheduler_interval_changed",
        "scheduler_race_scheduled",
        "scheduler_race_skip",
        "scheduler_race_skip",
    ]


@pytest.mark.parametrize(("second", "level"), [(0, "warning"), (5, "warning"), (6, "info"), (59, "info")])
def test_a_skip_that_repeats_is_a_warning_once_a_minute(
    second: int, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    day = Day(SLOT.replace(second=second))
    day.add_race("due", polled_at=day.now - 20 * SECOND)
    for number in range(ONE_MACHINE.most_batches):
        day.add_batch(f"other-{number}")
    day.skip()
    (line,) = capsys.readouterr().err.splitlines()
    assert f'"level": "{level}"' in line
    assert "scheduler_race_skip" in line


def test_no_more_batches_run_at_once_than_may() -> None:
    day = Day(SLOT)
    day.add_race("due", polled_at=SLOT - 20 * SECOND)
    for number in range(ONE_MACHINE.most_batches - 1):
        day.add_batch(f"other-{number}")
    assert read_races(day.request()) == ["due"]
    day.add_batch("another")
    assert day.skip() == "1 races are due, but 4 live batches are not over, 4 may be at work at once"
    assert day.slept == []


def test_more_races_than_one_run_takes_come_with_the_next_tick() -> None:
    day = Day(SLOT)
    for number in range(MOST_RACES + 3):
        day.add_race(f"race-{number:03}", start_in_s=number)
    first = read_races(day.request())
    assert (len(first), first[0], first[-1]) == (MOST_RACES, "race-000", f"race-{MOST_RACES - 1:03}")
    day.add_batch(*first)
    assert read_races(day.request()) == [f"race-{MOST_RACES + number:03}" for number in range(3)]


def test_a_tick_of_a_cluster_deals_the_races_to_runs_that_each_begin_with_the_earliest_start() -> None:
    day = Day(SLOT)
    for number in range(7):
        day.add_race(f"race-{number}", start_in_s=number)
    asked = day.tick(Shards(races_per_run=3, runs=5))
    assert isinstance(asked, list)
    assert [read_races(run) for run in asked] == [
        ["race-0", "race-3", "race-6"],
        ["race-1", "race-4"],
        ["race-2", "race-5"],
    ]
    assert len({run.run_key for run in asked}) == 3


def test_a_tick_of_a_cluster_asks_for_no_more_runs_than_there_are_places_left() -> None:
    shards = Shards(races_per_run=2, runs=3)
    day = Day(SLOT)
    for number in range(9):
        day.add_race(f"race-{number}", start_in_s=number)
    for number in range(shards.most_batches - 1):
        day.add_batch(f"other-{number}")
    asked = day.tick(shards)
    assert isinstance(asked, list)
    assert [read_races(run) for run in asked] == [["race-0", "race-1"]]
    day.add_batch("another")
    assert "12 live batches are not over, 12 may be at work at once" in str(day.tick(shards))


def test_races_of_a_day_that_is_being_loaded_are_not_polled_twice() -> None:
    day = Day(SLOT, is_loading=True)
    day.add_race("far", start_in_s=3_600)
    day.add_race("near", start_in_s=600)
    assert read_races(day.request()) == ["near"]
    day.is_loading = False
    assert read_races(day.request()) == ["near", "far"]


def live_again(day: Day) -> None:
    """The clock was set back: the ledger knows polls of later."""
    day.races = [race.model_copy(update={"newest_poll_time": SLOT + 3_600 * SECOND}) for race in day.races]


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        pytest.param(lambda day: day.sleep(5), True, id="a repeated tick"),
        pytest.param(lambda day: day.sleep(15), False, id="the next slot"),
        pytest.param(lambda day: day.add_race("b"), False, id="other races"),
        pytest.param(live_again, False, id="an instant lived through twice"),
    ],
)
def test_a_request_is_the_same_for_its_slot_its_races_and_what_the_ledger_knew(
    change: Callable[[Day], None], is_same: bool
) -> None:
    day = Day(SLOT - LEAD)
    day.add_race("a", polled_at=SLOT - 20 * SECOND)
    first = day.request().run_key
    change(day)
    assert (day.request().run_key == first) is is_same


def test_races_of_a_lost_run_are_asked_for_again_in_their_slot_once() -> None:
    day = Day(SLOT - LEAD)
    day.add_race("a", polled_at=SLOT - 20 * SECOND)
    first = day.request().run_key
    day.now += 5 * SECOND
    day.lost_keys.add(str(first))
    again = day.request().run_key
    assert again != first
    day.now += 5 * SECOND
    day.lost_keys.add(str(again))
    assert day.request().run_key == again, "Dagster launches a key once"


def test_a_lost_run_of_the_slot_before_changes_nothing() -> None:
    day = Day(SLOT - LEAD)
    day.add_race("a", polled_at=SLOT - 20 * SECOND)
    lost = str(day.request().run_key)
    day.now += 15 * SECOND
    expected = day.request().run_key
    day.lost_keys.add(lost)
    assert day.request().run_key == expected


def test_a_failed_read_fails_the_tick() -> None:
    class Broken(Day):
        def read_runs(self) -> Runs:
            raise ConnectionError("Dagster's database cannot be reached")

    day = Broken(SLOT)
    day.add_race("a")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        day.tick()


def test_a_tick_without_a_database_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with (
        dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance,
        dg.build_sensor_context(instance=instance) as context,
        pytest.raises(dg.DagsterError, match="DATABASE_URL is not set") as failure,
    ):
        due_races.evaluate_tick(context)
    assert "\n" not in str(failure.value)


def test_an_operator_reads_one_line_for_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    day = Day(SLOT)
    for number in range(9):
        day.add_race(f"race-{number}")
    day.request()
    (line,) = capsys.readouterr().err.splitlines()
    assert '"event": "scheduler_race_scheduled"' in line
    assert '"scheduled": 9' in line


def test_a_change_of_a_races_interval_is_said_when_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    day = Day(SLOT)
    day.add_race("near", start_in_s=299, polled_at=SLOT - 30 * SECOND)
    day.add_race("same", start_in_s=200, polled_at=SLOT - 15 * SECOND)
    day.request()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    said = [line for line in lines if line["event"] == "scheduler_interval_changed"]
    assert [(line["race_id"], line["old"], line["new"], line["seconds_to_start"]) for line in said] == [
        ("near", 30, 15, 299)
    ]


def test_every_sensor_is_switched_on_and_look_ahead_no_less_than_they_tick() -> None:
    assert [sensor.name for sensor in SENSORS] == ["due_races", "first_baseline", "alerts"]
    assert {sensor.default_status for sensor in SENSORS} == {dg.DefaultSensorStatus.RUNNING}
    assert ticks.HORIZON > 5 * SECOND + LEAD
