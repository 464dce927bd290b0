"""What a batch says of itself: its progress and its table."""

import threading
from datetime import timedelta

import dagster as dg
import pytest

from raceday_dagster.defs.reporting import (
    LONGEST_TAG,
    ProgressBoard,
    build_failure_tags,
    build_table,
    fail_race,
    log_pool_use,
    report_unanswered,
    warn_of_budgets,
)
from raceday_dagster.defs.reporting import end_race as end_race_of_run
from raceday_dagster.errors import TransformError
from raceday_dagster.racing.outcomes import BatchProgress, RaceFacts, Timings
from raceday_dagster.store.queries import FollowedRace
from raceday_dagster_tests.integration.race_day import read_log
from raceday_dagster_tests.log_contract import TRANSFORM_FAILED, find_wrong
from raceday_dagster_tests.unit.racing.test_outcomes import NOW, end_batch, end_race

SHARES = {"a": Timings(write_ms=10, total_ms=100), "b": Timings(write_ms=90, total_ms=300)}


def test_the_board_always_adds_up() -> None:
    board = ProgressBoard()
    said: list[BatchProgress] = []
    board.begin(4)
    board.start_item()
    board.start_item()
    board.end_item(end_race("a", "success", 2_000), "a", said.append)
    board.end_item(end_race("b", "failed"), "b", said.append)
    first, second = said
    assert (first.completed, first.processing, first.pending, first.eta_ms) == (1, 1, 2, 3_000)
    assert (second.successful, second.skipped, second.failed) == (1, 0, 1)
    assert second.completed + second.processing + second.pending == second.total == 4


def test_races_that_end_at_once_are_reported_one_after_the_other() -> None:
    board = ProgressBoard()
    board.begin(8)
    all_in_flight = threading.Barrier(8)
    said: list[int] = []

    def run_race() -> None:
        board.start_item()
        all_in_flight.wait(10)
        board.end_item(end_race("a", "success"), "a", lambda progress: said.append(progress.completed))

    races = [threading.Thread(target=run_race) for _ in range(8)]
    for race in races:
        race.start()
    for race in races:
        race.join()
    assert said == list(range(1, 9))


def test_a_board_that_never_began_has_nothing_to_say() -> None:
    board = ProgressBoard()
    said: list[BatchProgress] = []
    board.start_item()
    board.end_item(end_race("a", "success"), "a", said.append)
    assert said == []


def test_the_table_shows_failed_races_first_and_breaks_on_nothing() -> None:
    odd = end_race("b|\nc", "failed")
    table = build_table(end_batch(end_race("a", "success", 900), odd))
    rows = table.splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("| [its page](/races/b%7C%0Ac) | b\\| c | failed |")
    assert "fetch: no" in rows[2]


def test_a_run_with_failed_races_carries_their_number_and_names_as_tags() -> None:
    facts = RaceFacts(title="Te Rimu R5", start_time=NOW, status="open")
    named = end_race("b", "failed").model_copy(update={"race": facts})
    assert build_failure_tags(end_batch(end_race("a", "success"))) == {}
    assert build_failure_tags(end_batch(named, end_race("c", "failed"))) == {
        "raceday/failed": "2",
        "raceday/failed_races": "Te Rimu R5, c",
    }
    many = build_failure_tags(end_batch(*(end_race(str(number), "failed") for number in range(200))))
    assert len(many["raceday/failed_races"]) == LONGEST_TAG


@pytest.mark.parametrize("status", ["failed", "unknown", "skipped"])
def test_a_live_race_without_an_answer_for_three_intervals_is_an_error_whatever_the_reason(
    status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def follow(
        race_id: str, answered_ago_s: float, *, start_in_s: float = 60, race_status: str = "open"
    ) -> FollowedRace:
        return FollowedRace(
            race_id=race_id,
            title=f"Te Rimu {race_id}",
            start_time=NOW + timedelta(seconds=start_in_s),
            status=race_status,
            answered_at=NOW - timedelta(seconds=answered_ago_s),
        )

    stored = [
        follow("R1", 46),
        follow("R2", 45),
        follow("R3", 900, start_in_s=3_600),
        follow("R4", 900, start_in_s=-7_200),
        follow("R5", 900, race_status="final"),
    ]
    ended = end_race("R1", status)
    report_unanswered("run-1", end_batch(ended), stored, NOW)
    (line,) = read_log(capsys.readouterr().err)
    assert ended.error is not None
    assert {name: line[name] for name in ("event", "level", "race_id", "race", "seconds", "reason")} == {
        "event": "race_without_answer",
        "level": "error",
        "race_id": "R1",
        "race": "Te Rimu R1",
        "seconds": 46,
        "reason": ended.error.message,
    }


def test_a_failed_transform_names_its_worker(capsys: pytest.CaptureFixture[str]) -> None:
    error = TransformError("ValueError: no sum", race_id="R1", retryable=False)
    error.worker_id = 3

    @dg.op
    def fail(context: dg.OpExecutionContext) -> None:
        fail_race(context, error, Timings(transform_ms=7))

    @dg.job
    def failing() -> None:
        fail()

    assert failing.execute_in_process().success
    (line,) = read_log(capsys.readouterr().err)
    assert find_wrong([line], TRANSFORM_FAILED) == []
    assert (line["worker_id"], line["transform_ms"]) == (3, 7)


@pytest.mark.parametrize(("duration_ms", "level"), [(11_999, None), (12_000, "warning"), (15_000, "error")])
def test_a_batch_near_its_budget_is_a_warning_and_one_over_it_an_error(
    duration_ms: int, level: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.build_op_context() as context:
        warn_of_budgets(context, end_batch(end_race("a", "success"), duration_ms=duration_ms))
    said = [line for line in read_log(capsys.readouterr().err) if line["event"] == "batch_sla_warning"]
    assert [(line["level"], line["batch_duration_ms"]) for line in said] == ([(level, duration_ms)] if level else [])


@pytest.mark.parametrize(
    ("timings", "said"),
    [
        (Timings(write_ms=299, total_ms=1_999), []),
        (Timings(write_ms=300, total_ms=1_999), [("write_over_budget", 300, 300)]),
        (Timings(write_ms=0, total_ms=2_000), [("pipeline_over_budget", 2_000, 2_000)]),
    ],
)
def test_a_race_or_a_write_over_its_budget_is_a_warning(
    timings: Timings, said: list[tuple[str, int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.build_op_context() as context:
        end_race_of_run(context, end_race("a", "success").model_copy(update={"timings": timings}), ProgressBoard())
    lines = [line for line in read_log(capsys.readouterr().err) if line["event"].endswith("_over_budget")]
    assert {line["level"] for line in lines} <= {"warning"}
    assert [(line["event"], line.get("write_ms", line.get("total_ms")), line["target_ms"]) for line in lines] == said


def test_the_share_of_the_write_is_that_of_all_races_together() -> None:
    races = [end_race(name, "success").model_copy(update={"timings": timings}) for name, timings in SHARES.items()]
    assert end_batch(*races).write_share_percent == 25
    assert end_batch().write_share_percent == 0


@pytest.mark.parametrize(
    ("in_use", "waiting", "percent", "level"),
    [(0, 0, 0, "info"), (6, 0, 60, "info"), (7, 0, 70, "warning"), (8, 0, 80, "error"), (6, 1, 60, "error")],
)
def test_a_pool_is_warned_about_from_seventy_percent(
    in_use: int, waiting: int, percent: int, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert log_pool_use("run", in_use, 10, waiting, opened=2) == level
    (line,) = read_log(capsys.readouterr().err)
    assert (line["percent"], line["level"]) == (percent, level)
    assert (line["opened"], line["idle"]) == (max(2, in_use), max(2 - in_use, 0)), "what was never opened is not idle"
