"""What is put away and how large it all is: Dagster's runs of some days, `maintenance`, and the databases' sizes."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from benchmarks.saturday.costs import Figure
from benchmarks.saturday.scene import Scene
from raceday_dagster.racing.cadence import GRID
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES

RUNS_A_DAY = timedelta(hours=18) // GRID
"""A batch at every point of the grid, while races are followed."""
RUN_DAYS = 3
"""Of which `maintenance` deletes the oldest: runs stay for 48 hours."""
# Each run is the newest live batch once more, with another id and as much earlier; its id is in its JSON, too.
COPY_RUNS = """
CREATE TEMPORARY TABLE copies AS
SELECT md5('copy' || n)::uuid::text AS new_id, n * interval '15 s' + (n / %(a_day)s) * interval '6 h' AS age,
    %(run)s::text AS old_id
FROM generate_series(1, %(a_day)s * %(days)s) AS n;
INSERT INTO runs SELECT (jsonb_populate_record(run, jsonb_build_object(
    'id', nextval('runs_id_seq'), 'run_id', new_id, 'run_body', replace(run_body, old_id, new_id),
    'create_timestamp', create_timestamp - age, 'update_timestamp', update_timestamp - age,
    'start_time', start_time - extract(epoch FROM age), 'end_time', end_time - extract(epoch FROM age)))).*
FROM runs AS run, copies WHERE run_id = old_id ORDER BY age DESC;
INSERT INTO run_tags SELECT (jsonb_populate_record(tag, jsonb_build_object(
    'id', nextval('run_tags_id_seq'), 'run_id', new_id))).*
FROM run_tags AS tag, copies WHERE run_id = old_id ORDER BY age DESC;
INSERT INTO event_logs SELECT (jsonb_populate_record(entry, jsonb_build_object(
    'id', nextval('event_logs_id_seq'), 'run_id', new_id, 'event', replace(event, old_id, new_id),
    'timestamp', timestamp - age))).*
FROM event_logs AS entry, copies WHERE run_id = old_id ORDER BY age DESC, entry.id;
DROP TABLE copies
"""
SIZES = """
SELECT coalesce(parent.relname, class.relname) AS name, sum(pg_total_relation_size(class.oid)) AS bytes
FROM pg_class AS class
LEFT JOIN pg_inherits ON inhrelid = class.oid
LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE class.relkind = 'r' AND class.relnamespace = 'public'::regnamespace
GROUP BY 1 HAVING sum(pg_total_relation_size(class.oid)) > 1000000 ORDER BY 2 DESC
"""


def copy_runs(scene: Scene) -> Figure:
    """Three days of batches of twelve in Dagster's database, made after one."""
    ((run_id,),) = scene.ask("SELECT run_id FROM batches WHERE total_races = 12 ORDER BY started_at DESC LIMIT 1")
    with scene.dagster.connect() as connection:
        connection.exec_driver_sql(COPY_RUNS, {"run": run_id, "a_day": RUNS_A_DAY, "days": RUN_DAYS})
        connection.commit()
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
        runs, events = (
            connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() for table in ("runs", "event_logs")
        )
    return Figure("Dagster's runs and events", f"{runs:,}; {events:,}")


def maintenance(scene: Scene) -> Iterator[Figure]:
    """The job, with a day of history to archive, a day of runs to delete, and the keys of a day's races to remove."""
    config = {"ops": {"archive_history": {"config": {"folder": str(scene.home / "archive")}}}}
    before = _count(scene)
    executed = scene.execute("maintenance", config)
    gone = {name: before[name] - count for name, count in _count(scene).items()}
    told = f"{executed}; gone: {', '.join(f'{count:,} {name}' for name, count in gone.items())}"
    yield Figure("`maintenance`", told, executed.wall_s < 3_600 and all(gone.values()), "an hour")


def _count(scene: Scene) -> dict[str, int]:
    ((history,),) = scene.ask("SELECT count(*) FROM money_flow_history")
    counted = {"rows of money flow": history}
    for name, table in (("runs", "runs"), ("events", "event_logs"), ("partition keys", "dynamic_partitions")):
        ((counted[name],),) = scene.ask(f"SELECT count(*) FROM {table}", of=scene.dagster)
    return counted


def sizes(scene: Scene, full_day: date, polls_a_day: int) -> Iterator[Figure]:
    """The databases now, and what a poll leaves in each table."""
    for name, engine in (("the races", scene.engine), ("Dagster", scene.dagster)):
        told = ", ".join(f"{table} {float(size) / 1e6:,.0f}" for table, size in scene.ask(SIZES, of=engine))
        yield Figure(f"database of {name}, MB", told)
    ((polls,),) = scene.ask("SELECT count(*) FROM pool_history WHERE racing_day = %(day)s", day=full_day)
    each = {table: _measure_table(scene, name_partition(table, full_day)) / polls for table in PARTITIONED_TABLES}
    ((all_polls,),) = scene.ask("SELECT count(*) FROM race_polls")
    each["race_polls"] = _measure_table(scene, "race_polls") / all_polls
    told = ", ".join(f"{table} {size:,.0f}" for table, size in each.items())
    yield Figure("a poll, bytes", f"{sum(each.values()):,.0f}: {told}")
    a_day = polls_a_day * sum(each.values()) / 1e9
    yield Figure(f"a day of {polls_a_day:,} polls, GB", f"{a_day:.2f}; thirty such days {30 * a_day:,.0f}")
    ((events, size),) = scene.ask(
        "SELECT count(*), pg_total_relation_size('event_logs') FROM event_logs", of=scene.dagster
    )
    yield Figure("an event of Dagster's, bytes", f"{size / events:,.0f}")


def _measure_table(scene: Scene, table: str) -> int:
    ((size,),) = scene.ask("SELECT pg_total_relation_size(%(table)s)", table=table)
    found: Any = size
    return int(found)
