"""Children that write a race and kill themselves at a statement: one for every statement, then one that lives.

Prints a JSON list: for each child that died, by which signal and how many rows it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import Poll, RaceStore
from raceday_dagster_tests.integration.store.store_fixture import (
    make_finished,
    make_partitions,
    read_tables,
    watch_statements,
)


def write_and_die(database_url: str, dies_at: int) -> None:
    """Writes the race in this process, which ends at statement ``dies_at``; 0 for one that lives."""

    def die(_connection: Any, statement: str) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return statement

    store = RaceStore(build_engine(database_url, pool_max=1))
    make_partitions(store)
    with watch_statements(store.engine, at=dies_at, action=die):
        store.write_race(make_finished(), Poll(run_id="run", fetch_ms=300, transform_ms=20, elapsed_before_ms=330))


def run_child(database_url: str, dies_at: int) -> int:
    """The signal that ended the child; 0 for none."""
    child = os.fork()
    if child == 0:
        write_and_die(database_url, dies_at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(database_url: str, statements: int) -> None:
    ended = []
    for dies_at in range(1, statements + 1):
        number = run_child(database_url, dies_at)
        rows = sum(len(rows) for rows in read_tables(database_url).values())
        ended.append({"signal": number, "rows": rows})
    assert run_child(database_url, 0) == 0
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
