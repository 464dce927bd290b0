"""What a batch says of itself: its progress and its table."""

import threading

from raceday_dagster.defs.reporting import ProgressBoard, build_table
from raceday_dagster.racing.outcomes import BatchProgress
from raceday_dagster_tests.unit.racing.test_outcomes import end_batch, end_race


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


def test_the_table_shows_failed_races_first_and_breaks_on_nothing() -> None:
    odd = end_race("b|\nc", "failed")
    table = build_table(end_batch(end_race("a", "success", 900), odd))
    rows = table.splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| b\\| c | failed |")
    assert "fetch: no" in rows[2]
