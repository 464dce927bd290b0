"""Children that write a race or a day and kill themselves at a statement: one for every statement, one for the commit,
then one that lives.

Prints a JSON list: for each child that died, by which signal and whether it changed any row.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from sqlalchemy import event

from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import Poll, RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import (
    make_finished,
    make_partitions,
    read_tables,
    watch_statements,
)
from raceday_dagster_tests.write_snapshots import make_results, make_snapshot

NEVER = 0


def write_answer(store: RaceStore, answer: RaceSnapshot) -> None:
    store.write_race(answer, Poll(run_id="run", fetch_ms=300, transform_ms=20, elapsed_before_ms=330))


def write_first(store: RaceStore) -> None:
    """The first answer for a race, which is over: everything is new."""
    write_answer(store, make_finished())


def write_later(store: RaceStore) -> None:
    """A later answer, after `make_snapshot()`: the race has ended, amounts and prices differ, a runner is gone."""
    answer = make_snapshot(
        poll=1,
        holds={1: 20, 2: 13},
        win_cents=1_000_000,
        odds={(1, "fixed_win"): "3.10"},
        race={"status": "final"},
        results=make_results("final"),
    )
    write_answer(store, answer)


def write_list(store: RaceStore) -> None:
    """A racing day, after `make_snapshot()`, of which it has one race."""
    store.write_racing_day(make_list(["race-1", "race-2"], poll=1, meeting={"track_condition": "Soft7"}))


WRITES = {"first": write_first, "later": write_later, "list": write_list}


def write_and_die(database_url: str, name: str, dies_at: int, statements: int) -> None:
    """Writes in this process, which ends at statement ``dies_at``, or at the commit after the last one."""

    def die(_connection: Any, statement: str = "") -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return statement

    store = RaceStore(build_engine(database_url, pool_max=1))
    make_partitions(store)
    if dies_at > statements:
        event.listen(store.engine, "commit", die)
    with watch_statements(store.engine, at=dies_at, action=die):
        WRITES[name](store)


def run_child(database_url: str, name: str, dies_at: int, statements: int) -> int:
    """The signal that ended the child; 0 for none."""
    child = os.fork()
    if child == 0:
        write_and_die(database_url, name, dies_at, statements)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(database_url: str, name: str, statements: int) -> None:
    before, ended = read_tables(database_url), []
    for dies_at in range(1, statements + 2):
        number = run_child(database_url, name, dies_at, statements)
        ended.append({"signal": number, "has_changed": read_tables(database_url) != before})
    assert run_child(database_url, name, NEVER, statements) == 0
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
