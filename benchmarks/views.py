"""``python -m benchmarks.views``: a month of history in a database of its own, and how long the views of one race take.

Thirty racing days of a hundred races, twelve runners each: with 278 polls of every race, ten million rows of money
flow. Prints a Markdown table; fails when a view of one race takes ``TARGET_MS`` or more
the second time, as a page asks that follows it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.migrations import upgrade

DAYS, RACES, RUNNERS, POLLS = 30, 100, 12, 278
TARGET_MS = 20
VIEWS = "SELECT viewname FROM pg_views WHERE schemaname = current_schema() ORDER BY 1"
DAY = """
INSERT INTO meetings (meeting_id, meeting_name, country, category, race_type, racing_day)
SELECT %(day)s || '-' || m, 'Meeting ' || m, 'NZ', 'T', 'thoroughbred', %(day)s::date
FROM generate_series(1, %(races)s / 10) AS m;
INSERT INTO races (race_id, meeting_id, racing_day, race_number, start_time, type, status, last_poll_time)
SELECT %(day)s || '-r' || r, %(day)s || '-' || (r - 1) / 10 + 1, %(day)s::date, (r - 1) %% 10 + 1,
    %(day)s::timestamptz + r * interval '5 minutes', 'T', 'final', %(day)s::timestamptz
FROM generate_series(1, %(races)s) AS r;
INSERT INTO entrants (entrant_id, race_id, runner_number, name, is_scratched, hold_percentage)
SELECT %(day)s || '-r' || r || '-' || n, %(day)s || '-r' || r, n, 'Runner ' || n, false, 8.3
FROM generate_series(1, %(races)s) AS r, generate_series(1, %(runners)s) AS n;
INSERT INTO race_pools (race_id, win_pool_total, source)
SELECT %(day)s || '-r' || r, 1000000, 'tote_pools' FROM generate_series(1, %(races)s) AS r;
INSERT INTO race_results (race_id, result_status, results, dividends)
SELECT %(day)s || '-r' || r, 'final', '[{"position": 1, "runner_number": 2}, {"position": 2, "runner_number": 1}]',
    '[{"product_name": "Pool Win", "dividend": 3.3, "positions": [{"runner_number": 2, "position": 1}]}]'
FROM generate_series(1, %(races)s) AS r;
INSERT INTO race_polls (run_id, race_id, polled_at, status)
SELECT %(day)s || '-' || p, %(day)s || '-r' || r, %(day)s::timestamptz + r * interval '5 minutes' - p * interval '15 s',
    'success'
FROM generate_series(1, %(races)s) AS r, generate_series(1, %(polls)s) AS p;
INSERT INTO money_flow_history
SELECT %(day)s::date, %(day)s || '-r' || r, %(day)s || '-r' || r || '-' || n,
    %(day)s::timestamptz + r * interval '5 minutes' - p * interval '15 s', now(), p * 15,
    CASE WHEN p >= 240 THEN 60 WHEN p >= 20 THEN p / 20 * 5 ELSE p / 4 END, '30s',
    8.3, 8.3, 1000 * (300 - p), 500 * (300 - p), 1500, 8.3, 8.3, 1000, 500, p = %(polls)s, 4.5, 1.9, NULL, NULL
FROM generate_series(1, %(races)s) AS r, generate_series(1, %(runners)s) AS n, generate_series(1, %(polls)s) AS p
ORDER BY p DESC, r, n;  -- as polls write them
INSERT INTO odds_history
SELECT %(day)s::date, %(day)s || '-r' || r, %(day)s || '-r' || r || '-' || n, kind, 2 + p,
    %(day)s::timestamptz + r * interval '5 minutes' - p * interval '60 s', now()
FROM generate_series(1, %(races)s) AS r, generate_series(1, %(runners)s) AS n, generate_series(1, 20) AS p,
    unnest(ARRAY['fixed_win', 'fixed_place', 'pool_win', 'pool_place']) AS kind
ORDER BY p DESC, r, n
"""


def main() -> None:
    """Makes the month and asks every view about thirty races."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help=f"racing days (default {DAYS})")
    days = parser.parse_args().days
    with tempfile.TemporaryDirectory(prefix="rd-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder), fsync=False)
        server.start()
        try:
            measure(server.create_database("views", owner="raceday", connection_limit=10), days)
        finally:
            server.stop()


def measure(database_url: str, days: int) -> None:
    """Fills the database, prints the table, and exits with 1 when a view missed its aim."""
    upgrade(database_url)
    engine = build_engine(database_url, pool_max=2)
    last = datetime.now(UTC).date()
    chosen = [last - timedelta(days=number) for number in range(days)]
    RaceStore(engine).ensure_partitions(chosen)
    began_s = time.monotonic()
    with engine.connect() as connection:
        run: Callable[..., Any] = connection.exec_driver_sql
        for day in chosen:
            run(DAY, {"day": day.isoformat(), "races": RACES, "runners": RUNNERS, "polls": POLLS})
            connection.commit()
        run("ANALYZE")
        connection.commit()
        rows = run("SELECT count(*) FROM money_flow_history").scalar_one()
        views = run(VIEWS).scalars().all()
        asked = [f"{chosen[number % days]}-r{1 + 7 * number % RACES}" for number in range(30)]
        print(f"\n{rows:,} rows of money flow in {days} days, made in {time.monotonic() - began_s:.0f} s\n")
        print("| view of one race | ms, the first time: median | again: median | max |\n|---|--:|--:|--:|")
        late = [view for view in views if ask(connection, view, asked) >= TARGET_MS]
    engine.dispose()
    sys.exit(f"{TARGET_MS} ms or more: {', '.join(late)}" if late else 0)


def ask(connection: Connection, view: str, race_ids: list[str]) -> float:
    """Milliseconds that a view takes for a race that was asked for before, the median of these; its answer is read
    whole. Prints the line of the view."""
    first, again = ([time_answer(connection, view, race_id) for race_id in race_ids] for _ in range(2))
    print(f"| `{view}` | {statistics.median(first):.1f} | {statistics.median(again):.1f} | {max(again):.1f} |")
    return statistics.median(again)


def time_answer(connection: Connection, view: str, race_id: str) -> float:
    """Milliseconds of one question."""
    question = " ".join(("SELECT * FROM", view, "WHERE race_id = %(race_id)s"))
    began_s = time.perf_counter()
    found = connection.exec_driver_sql(question, {"race_id": race_id}).all()
    taken_ms = 1000 * (time.perf_counter() - began_s)
    assert found, (view, race_id)
    return taken_ms


if __name__ == "__main__":
    main()
