"""The thin parts of the Dagster layer that need no instance."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.defs.concurrency import lower_concurrency, read_requested_concurrency
from raceday_dagster.defs.ops.batch import FailRunWhen, is_failed
from raceday_dagster.defs.partitions import build_mapping_key
from raceday_dagster.defs.progress import ProgressBoard
from raceday_dagster.defs.summary import build_table
from raceday_dagster.racing.outcomes import BatchProgress
from raceday_dagster_tests.unit.racing.test_outcomes import end_batch, end_race


def test_a_uuid_stays_readable_as_a_mapping_key() -> None:
    assert build_mapping_key("0f57e087-00d9-4c61-9549-835abe2ae2ed") == "0f57e087_00d9_4c61_9549_835abe2ae2ed"


@given(st.text(min_size=1))
def test_a_mapping_key_holds_only_what_dagster_takes(race_id: str) -> None:
    key = build_mapping_key(race_id)
    assert key.isascii()
    assert key.replace("_", "a").isalnum()


@given(st.lists(st.text(alphabet="x-_61ab/é", min_size=1), unique=True))
def test_different_races_have_different_mapping_keys(race_ids: list[str]) -> None:
    assert len({build_mapping_key(race_id) for race_id in race_ids}) == len(race_ids)


@pytest.mark.parametrize(("requested", "pool_max", "effective"), [(5, 10, 5), (5, 3, 3), (5, 1, 1), (10, 10, 10)])
def test_a_race_in_flight_needs_a_connection(requested: int, pool_max: int, effective: int) -> None:
    assert lower_concurrency(requested, pool_max) == effective


@pytest.mark.parametrize(
    ("run_config", "requested"),
    [({}, 5), ({"execution": {}}, 5), ({"execution": {"config": {"max_concurrent": 2}}}, 2)],
)
def test_the_concurrency_asked_for_is_that_of_the_run(run_config: dict[str, object], requested: int) -> None:
    assert read_requested_concurrency(run_config) == requested


def test_the_board_always_adds_up() -> None:
    clock = iter([0.0, 2.0, 3.0])
    board = ProgressBoard(monotonic=lambda: next(clock))
    said: list[BatchProgress] = []
    board.begin(4)
    board.start_race()
    board.start_race()
    board.end_race("success", said.append)
    board.end_race("failed", said.append)
    first, second = said
    assert (first.completed, first.processing, first.pending, first.eta_ms) == (1, 1, 2, 6_000)
    assert (second.successful, second.skipped, second.failed) == (1, 0, 1)
    assert second.completed + second.processing + second.pending == second.total == 4


def test_races_that_end_at_once_are_reported_one_after_the_other() -> None:
    board = ProgressBoard()
    board.begin(8)
    all_in_flight = threading.Barrier(8)
    said: list[int] = []

    def run_race() -> None:
        board.start_race()
        all_in_flight.wait(10)
        board.end_race("success", lambda progress: said.append(progress.completed))

    races = [threading.Thread(target=run_race) for _ in range(8)]
    for race in races:
        race.start()
    for race in races:
        race.join()
    assert said == list(range(1, 9))


def test_a_board_that_never_began_has_nothing_to_say() -> None:
    board = ProgressBoard()
    said: list[BatchProgress] = []
    board.start_race()
    board.end_race("success", said.append)
    assert said == []


@pytest.mark.parametrize(
    ("statuses", "policy", "failed"),
    [
        ((), FailRunWhen.all, False),
        ((), FailRunWhen.any, False),
        (("failed", "failed"), FailRunWhen.all, True),
        (("failed", "failed"), FailRunWhen.never, False),
        (("failed", "success"), FailRunWhen.all, False),
        (("failed", "success"), FailRunWhen.any, True),
        (("failed", "skipped"), FailRunWhen.all, True),
        (("skipped", "success"), FailRunWhen.any, False),
    ],
)
def test_a_run_is_red_as_its_policy_says(statuses: tuple[str, ...], policy: FailRunWhen, failed: bool) -> None:
    outcome = end_batch(*(end_race(str(number), status) for number, status in enumerate(statuses)))
    assert is_failed(outcome, policy) is failed


def test_the_table_shows_failed_races_first_and_breaks_on_nothing() -> None:
    odd = end_race("b|\nc", "failed")
    table = build_table(end_batch(end_race("a", "success", 900), odd))
    rows = table.splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| b\\| c | failed |")
    assert "fetch: no" in rows[2]
