"""Rows on their way to a database that is slow, away, full of questions or talks back."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy.exc import OperationalError

from raceday_dagster.dagster_plugins import event_buffer
from raceday_dagster.dagster_plugins.event_buffer import EventBuffer, Row

PATIENCE_S = 10


def make_row(number: int) -> Row:
    return {"run_id": "run", "event": str(number)}


def is_absent(_: Row) -> bool:
    return False


def test_what_is_said_while_rows_are_written_does_not_wait_for_itself_and_is_taken_by_the_next_flush() -> None:
    written: list[str] = []

    def write_and_talk(rows: list[Row]) -> None:
        if not written:
            buffer.add(make_row(1))
            buffer.flush(make_row(2))
        written.extend(row["event"] for row in rows)

    buffer = EventBuffer(write_and_talk, is_absent)
    first = threading.Thread(target=buffer.flush, args=(make_row(0),), daemon=True)
    first.start()
    first.join(PATIENCE_S)
    assert not first.is_alive(), "it waits for itself"
    buffer.close()
    assert sorted(written) == ["0", "1", "2"]


def test_rows_that_come_soon_after_one_another_share_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_buffer, "GATHER_FOR_S", PATIENCE_S)
    statements: list[int] = []
    buffer = EventBuffer(lambda rows: statements.append(len(rows)), is_absent)
    for number in range(5):
        buffer.add(make_row(number))
    buffer.close()
    assert statements == [5]


def test_who_adds_waits_while_too_many_rows_are_left_to_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_buffer, "MOST_GATHERED", 3)
    written: list[str] = []
    peaks: list[int] = []
    all_added = threading.Event()

    def write_slowly(rows: list[Row]) -> None:
        all_added.wait(0.02)
        peaks.append(len(buffer._rows))
        written.extend(row["event"] for row in rows)

    buffer = EventBuffer(write_slowly, is_absent)
    for number in range(10):
        buffer.add(make_row(number))
    all_added.set()
    buffer.close()
    assert max(peaks) == 3
    assert written == [str(number) for number in range(10)]


def test_rows_behind_one_statement_go_into_the_next_and_only_the_broken_one_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_buffer, "ROWS_AT_ONCE", 2)
    stored: list[str] = []
    questions: list[str] = []
    gate = threading.Event()
    broken: list[int] = []

    def lose_second_answer(rows: list[Row]) -> None:
        assert gate.wait(PATIENCE_S)
        stored.extend(row["event"] for row in rows)
        if len(stored) > 2 and not broken:
            broken.append(len(stored))
            raise OperationalError("INSERT", None, Exception("lost"), connection_invalidated=True)

    def look(row: Row) -> bool:
        questions.append(row["event"])
        return row["event"] in stored

    buffer = EventBuffer(lose_second_answer, look)
    for number in range(7):
        buffer.add(make_row(number))
    gate.set()
    buffer.close()
    assert broken, "the fault never fired"
    assert stored == [str(number) for number in range(7)]
    assert len(questions) == 1


def test_an_error_nobody_thought_of_does_not_end_the_thread() -> None:
    failed = threading.Event()
    written: list[str] = []

    def fail_once(rows: list[Row]) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("never heard of")
        written.extend(row["event"] for row in rows)

    buffer = EventBuffer(fail_once, is_absent)
    buffer.add(make_row(0))
    with buffer._changed:
        assert buffer._changed.wait_for(lambda: not buffer._is_working, PATIENCE_S)
    assert failed.is_set()
    buffer.add(make_row(1))
    assert written == ["0", "1"], "who adds the next row writes"
    assert buffer._is_working
    assert buffer._thread.is_alive()
    buffer.close()


def test_a_row_added_after_the_end_is_written_at_once() -> None:
    written: list[str] = []
    buffer = EventBuffer(lambda rows: written.extend(row["event"] for row in rows), is_absent)
    buffer.close()
    buffer.add(make_row(0))
    assert written == ["0"]


def test_a_standby_server_and_a_lost_one_cost_no_row() -> None:
    class ReadOnly(Exception):  # noqa: N818 - as psycopg2 names its own
        pgcode = "25006"

    for error in (
        OperationalError("INSERT", None, Exception("away")),
        event_buffer.DBAPIError("INSERT", None, ReadOnly()),
        event_buffer.DBAPIError("INSERT", None, Exception("lost"), connection_invalidated=True),
    ):
        assert not event_buffer._is_about_rows(error)
