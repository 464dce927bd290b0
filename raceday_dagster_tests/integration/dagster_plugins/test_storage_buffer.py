"""The events of a run with threads: gathered by the storage, written by one thread, none lost and none out of order."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from raceday_dagster.dagster_plugins.event_buffer import ROWS_AT_ONCE
from raceday_dagster.dagster_plugins.storage import PooledPostgresStorage
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.dagster_plugins.storage_contract_fixture import entry
from raceday_dagster_tests.integration.postgres_fixture import ask, make_database
from raceday_dagster_tests.waiting import wait_for

INSERT = "INSERT INTO event_logs"


@pytest.fixture(scope="module")
def url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    with make_database(embedded_postgres) as url:
        yield url


@pytest.fixture
def storage(url: str, tmp_path: Path) -> Iterator[PooledPostgresStorage]:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}) as instance:
        opened = PooledPostgresStorage(url)
        opened.register_instance(instance)
        yield opened
        opened.event_log_storage.wipe()
        opened.event_log_storage.dispose()


def say(number: int, *, step_key: str | None = "a_step", run_id: str = "run") -> dg.EventLogEntry:
    return entry(run_id, step=step_key, message=str(number))


def read(storage: PooledPostgresStorage) -> list[str]:
    return [
        record.event_log_entry.user_message for record in storage.event_log_storage.get_records_for_run("run").records
    ]


def count_stored(url: str) -> object:
    """What another connection sees."""
    return ask(url, "SELECT count(*) FROM event_logs")


class Inserts:
    """Counts the statements that insert events, and fails some of them."""

    def __init__(self, engine: sa.Engine, *, failing: int = 0) -> None:
        self.count = 0
        self.left_to_fail = failing
        sa.event.listen(engine, "before_cursor_execute", self.note)

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(INSERT):
            return
        self.count += 1
        if self.left_to_fail:
            self.left_to_fail -= 1
            raise OperationalError(statement, None, Exception("the test broke this insert"))


def test_steps_go_on_while_their_events_wait_and_then_share_a_statement(
    storage: PooledPostgresStorage, url: str
) -> None:
    log = storage.event_log_storage
    inserts = Inserts(log._engine)
    blocker = sa.create_engine(url, poolclass=sa.NullPool)
    with log.buffered():
        with blocker.begin() as connection:
            connection.execute(sa.text("LOCK TABLE event_logs IN EXCLUSIVE MODE"))
            log.store_event(say(0))
            assert wait_for(lambda: inserts.count == 1, 10), "the thread never tried to write"
            for number in range(1, 50):
                log.store_event(say(number))
        assert read(storage) == [str(number) for number in range(50)]
    assert inserts.count == 2


def test_an_event_of_the_run_itself_is_there_when_it_has_been_said(storage: PooledPostgresStorage, url: str) -> None:
    log = storage.event_log_storage
    with log.buffered():
        for number in range(10):
            log.store_event(say(number))
        log.store_event(say(10, step_key=None))
        assert count_stored(url) == 11


def test_the_end_of_the_block_leaves_nothing_behind(storage: PooledPostgresStorage, url: str) -> None:
    log = storage.event_log_storage
    with log.buffered():
        for number in range(100):
            log.store_event(say(number))
    assert count_stored(url) == 100
    log.store_event(say(100))
    assert count_stored(url) == 101, "without a buffer an event is stored at once"


def test_events_the_thread_could_not_write_are_written_by_the_next_who_says_one(storage: PooledPostgresStorage) -> None:
    log = storage.event_log_storage
    inserts = Inserts(log._engine, failing=1)
    with log.buffered():
        log.store_event(say(0))
        assert wait_for(lambda: log._buffer is not None and not log._buffer._is_working, 10)
        assert inserts.left_to_fail == 0, "the fault never fired"
        log.store_event(say(1))
        assert read(storage) == ["0", "1"]


def test_a_step_hears_of_a_database_that_stays_away(storage: PooledPostgresStorage) -> None:
    log = storage.event_log_storage
    inserts = Inserts(log._engine, failing=2)
    with log.buffered():
        log.store_event(say(0))
        assert wait_for(lambda: log._buffer is not None and not log._buffer._is_working, 10)
        with pytest.raises(OperationalError, match="the test broke this insert"):
            log.store_event(say(1))
        assert inserts.left_to_fail == 0
        log.store_event(say(2))
    assert read(storage) == ["0", "2"], "what a step was told is lost is not stored later"


def test_writing_says_nothing_in_the_logs(storage: PooledPostgresStorage, caplog: pytest.LogCaptureFixture) -> None:
    """A log handler that stores events may be waiting, with its lock, for the writing to end."""
    log = storage.event_log_storage
    refusals = [OperationalError("connect", {}, ConnectionError("starting up"))] * 2

    def refuse_twice(*_: object) -> None:
        if refusals:
            raise refusals.pop()

    log._engine.dispose()
    sa.event.listen(log._engine, "do_connect", refuse_twice)
    with log.buffered():
        log.store_event(say(0))
        log.store_event(say(1, step_key=None))
    assert refusals == [], "the fault never fired"
    assert caplog.records == []
    assert read(storage) == ["0", "1"]


POISON = {"NUL": "a\0step", "larger than an index takes": secrets.token_hex(20_000)}


@pytest.mark.parametrize("step_key", POISON.values(), ids=POISON)
def test_a_row_the_database_will_not_take_is_lost_alone_and_noted(
    storage: PooledPostgresStorage, url: str, capsys: pytest.CaptureFixture[str], step_key: str
) -> None:
    log = storage.event_log_storage
    blocker = sa.create_engine(url, poolclass=sa.NullPool)
    with log.buffered():
        with blocker.begin() as connection:
            connection.execute(sa.text("LOCK TABLE event_logs IN EXCLUSIVE MODE"))
            for number, key in enumerate(["step", "step", step_key, "step"]):
                log.store_event(say(number, step_key=key))
        assert read(storage) == ["0", "1", "3"]
        log.store_event(say(4))
    assert read(storage) == ["0", "1", "3", "4"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("An event of run run cannot be stored: ")


def test_who_waits_for_a_row_the_database_will_not_take_hears_of_it(storage: PooledPostgresStorage) -> None:
    log = storage.event_log_storage
    with log.buffered():
        log.store_event(say(0))
        with pytest.raises(ValueError, match="NUL"):
            log.store_event(say(1, step_key=None, run_id="r\0n"))
        log.store_event(say(2))
    assert read(storage) == ["0", "2"]


def test_two_runs_of_one_process_share_the_buffer_until_the_last_has_ended(
    storage: PooledPostgresStorage, url: str
) -> None:
    log = storage.event_log_storage
    first, second = log.buffered(), log.buffered()
    first.__enter__()
    second.__enter__()
    log.store_event(say(0))
    first.__exit__(None, None, None)
    assert count_stored(url) == 1
    assert log._buffer is not None
    log.store_event(say(1, run_id="other"))
    second.__exit__(None, None, None)
    assert count_stored(url) == 2
    assert log._buffer is None


def test_rows_whose_answer_was_lost_are_not_stored_twice(storage: PooledPostgresStorage) -> None:
    log = storage.event_log_storage
    lost: list[str] = []

    def lose_answer(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(INSERT) and not lost:
            lost.append(statement)
            raise OperationalError(statement, None, Exception("the connection was lost"), connection_invalidated=True)

    sa.event.listen(log._engine, "after_cursor_execute", lose_answer)
    with log.buffered():
        log.store_event(say(0))
        assert wait_for(lambda: bool(lost), 10), "the fault never fired"
        log.store_event(say(1))
    assert read(storage) == ["0", "1"]


def test_what_is_written_at_once_is_one_statement(storage: PooledPostgresStorage, url: str) -> None:
    log = storage.event_log_storage
    inserts = Inserts(log._engine)
    log._insert([log._event_to_row(say(number)) for number in range(ROWS_AT_ONCE)])
    assert inserts.count == 1
    assert count_stored(url) == ROWS_AT_ONCE
