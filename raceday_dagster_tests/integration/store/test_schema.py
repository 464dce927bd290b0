"""Migrations, the schema they lead to, partitions, and what is said of a database that cannot be used."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from raceday_dagster.errors import DatabaseError, WriteError
from raceday_dagster.racing.snapshots import EntrantRow, MeetingRow, PoolsRow, RaceRow, ResultsRow
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.check import REVISION, check_schema, read_revision
from raceday_dagster.store.schema.migrations import build_config, upgrade
from raceday_dagster.store.schema.partitions import choose_days, name_partition
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES
from raceday_dagster_tests.integration.postgres_fixture import make_database
from raceday_dagster_tests.integration.store.store_fixture import TABLES, observe, open_store, read_tables, write
from raceday_dagster_tests.write_snapshots import make_snapshot


def list_partitions(database_url: str) -> set[str]:
    with observe(database_url) as run:
        return {
            name
            for (name,) in run(
                "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"
            )
        }


def test_two_upgrades_at_once_make_one_schema_and_a_third_changes_nothing(empty_database_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: upgrade(empty_database_url), range(2)))
    assert sorted(report.changed for report in reports) == [False, True]
    days = choose_days(datetime.now(UTC))
    assert list_partitions(empty_database_url) == {
        name_partition(table, day) for table in PARTITIONED_TABLES for day in days
    }
    again = upgrade(empty_database_url)
    assert (again.from_revision, again.to_revision, again.partitions) == (REVISION, REVISION, ())


def test_the_tests_compare_every_table_and_each_field_of_a_row_has_its_column(database_url: str) -> None:
    with observe(database_url) as run:
        rows = run(
            "SELECT table_name, column_name FROM information_schema.columns JOIN pg_class ON relname = table_name"
            " WHERE table_schema = 'public' AND relkind IN ('r', 'p') AND NOT relispartition"
        )
    columns: dict[str, set[str]] = defaultdict(set)
    for table, column in rows:
        columns[table].add(column)
    assert columns.keys() - {"raceday_schema"} == TABLES.keys()
    records = {"meetings": MeetingRow, "races": RaceRow, "entrants": EntrantRow, "race_pools": PoolsRow}
    for table, record in {**records, "race_results": ResultsRow}.items():
        assert record.model_fields.keys() <= columns[table], table


def test_an_upgrade_from_the_first_schema_keeps_the_entrants(embedded_postgres: Any) -> None:
    with make_database(embedded_postgres) as url:
        engine = build_engine(url, pool_max=1)
        with engine.begin() as connection:
            command.upgrade(build_config(connection), "0001")
        with pytest.raises(DatabaseError, match=f"at 0001, this code needs {REVISION}: run `raceday db upgrade`"):
            check_schema(engine)
        with observe(url) as run:
            run(
                "INSERT INTO meetings (meeting_id, country, category, race_type, racing_day)"
                " VALUES ('m', 'NZ', 'T', 'thoroughbred', '2025-07-17')"
            )
            run(
                "INSERT INTO races (race_id, meeting_id, racing_day, race_number, start_time, type)"
                " VALUES ('race-1', 'm', '2025-07-17', 1, now(), 'T')"
            )
            run(
                "INSERT INTO entrants (entrant_id, race_id, runner_number, is_scratched)"
                " VALUES ('race-1-01', 'race-1', 1, false)"
            )
            report = upgrade(url)
            assert (report.from_revision, report.to_revision) == ("0001", REVISION)
            assert run("SELECT entrant_id, withdrawn_at FROM entrants") == [("race-1-01", None)]
        assert write(RaceStore(engine), make_snapshot()).row_counts.entrants == 8
        engine.dispose()


def test_a_schema_of_another_version_is_refused_with_what_to_do(database_url: str) -> None:
    engine = build_engine(database_url, pool_max=1)
    check_schema(engine)
    assert read_revision(engine) == REVISION
    with observe(database_url) as run:
        run("UPDATE raceday_schema SET version_num = '9999'")
        try:
            with pytest.raises(DatabaseError, match="newer than this code"):
                check_schema(engine)
            with pytest.raises(DatabaseError, match="newer than this code"):
                upgrade(database_url)
        finally:
            run("UPDATE raceday_schema SET version_num = %(head)s", {"head": REVISION})
    engine.dispose()


def test_a_database_without_tables_is_refused_with_the_command_to_run(embedded_postgres: Any) -> None:
    url = embedded_postgres.create_database("without_tables", owner="raceday", connection_limit=10)
    engine = build_engine(url, pool_max=1)
    with pytest.raises(DatabaseError, match="no raceday tables: run `raceday db upgrade`"):
        check_schema(engine)
    engine.dispose()
    embedded_postgres.drop_database("without_tables")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"database": "nosuch"}, "is not on this server; create it, then run `raceday db upgrade`"),
        ({"username": "nobody_here"}, "does not know this role; correct the user in DATABASE_URL"),
        ({"host": "127.0.0.1", "port": 1, "query": {}}, "on 127.0.0.1, port 1 cannot be reached: connection to"),
        ({"host": "127.0.0.1", "port": 1, "query": {}}, "Connection refused; start it"),
        ({"host": "no.invalid", "query": {}}, 'could not translate host name "no.invalid"'),
        ({"host": None, "query": {"host": "127.0.0.1,127.0.0.1", "port": "1,2"}}, "port 2 failed: Connection refused"),
        ({"host": "127.0.0.1", "query": {"sslmodel": "require"}}, 'invalid connection option "sslmodel"'),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    database_url: str, change: dict[str, Any], says: str
) -> None:
    url = make_url(database_url).set(password="hidden-word").set(**change)
    engine = build_engine(url.render_as_string(hide_password=False), pool_max=1)
    for use in (check_schema, lambda engine: upgrade(engine.url.render_as_string(hide_password=False))):
        with pytest.raises(DatabaseError) as caught:
            use(engine)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hidden-word" not in str(caught.value)


def test_an_old_server_is_one_line(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raceday_dagster.store.schema.check.OLDEST_SERVER", (99,))
    engine = build_engine(database_url, pool_max=1)
    for use in (check_schema, lambda _: upgrade(database_url)):
        with pytest.raises(DatabaseError, match=r"^database .* is PostgreSQL \d+: 99 or newer is needed$"):
            use(engine)
    engine.dispose()


def test_options_of_the_url_are_honoured(database_url: str) -> None:
    with observe(database_url) as run:
        run("CREATE SCHEMA elsewhere")
    options = "options=-csearch_path%3Delsewhere&application_name=mine&connect_timeout=7"
    assert upgrade(f"{database_url}&{options}").from_revision is None
    engine = build_engine(f"{database_url}&{options}", pool_max=1)
    check_schema(engine)
    with engine.connect() as connection:
        used = connection.connection.driver_connection.get_dsn_parameters()
        assert (used["application_name"], used["connect_timeout"]) == ("mine", "7")
        assert connection.exec_driver_sql("SELECT to_regclass('elsewhere.races')").scalar() is not None
    engine.dispose()


def test_partitions_are_made_once_for_both_tables(store: RaceStore, database_url: str) -> None:
    asked = [date(2024, 2, 29), date(2024, 12, 31)]
    made = store.ensure_partitions(asked)
    assert {name_partition(table, day) for table in PARTITIONED_TABLES for day in asked} <= set(made)
    assert store.ensure_partitions(asked) == []
    with observe(database_url) as run:
        [(bounds,)] = run(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'odds_history_2024_02_29'"
        )
    assert bounds == "FOR VALUES FROM ('2024-02-29') TO ('2024-03-01')"


def test_two_makers_at_once_make_each_partition_once(database_url: str) -> None:
    days = [date(2023, 1, day) for day in range(1, 6)]
    with open_store(database_url) as one, open_store(database_url) as other, ThreadPoolExecutor(2) as pool:
        made = [name for names in pool.map(lambda store: store.ensure_partitions(days), [one, other]) for name in names]
    expected = {name_partition(table, day) for table in PARTITIONED_TABLES for day in days}
    assert expected <= set(made)
    assert len(made) == len(set(made))


def test_the_first_write_of_an_unprepared_day_makes_its_partitions(store: RaceStore, database_url: str) -> None:
    snapshot = make_snapshot(race={"start_time": datetime(2022, 5, 6, 3, tzinfo=UTC), "race_date_nz": None})
    assert write(store, snapshot).row_counts.odds_history == 16
    assert "odds_history_2022_05_06" in list_partitions(database_url)


def test_the_first_write_of_a_race_after_midnight_makes_the_partitions_of_its_meetings_day(
    store: RaceStore, database_url: str
) -> None:
    with observe(database_url) as run:
        run(
            "INSERT INTO meetings (meeting_id, meeting_name, country, category, race_type, racing_day)"
            " VALUES ('meeting-1', 'Awapuni', 'NZ', 'T', 'thoroughbred', '2022-05-10')"
        )
    after_midnight = datetime(2022, 5, 10, 13, tzinfo=UTC)
    write(store, make_snapshot(race={"start_time": after_midnight, "race_date_nz": date(2022, 5, 11)}))
    tables = read_tables(database_url)
    assert tables["races"][0]["racing_day"] == tables["odds_history"][0]["racing_day"] == date(2022, 5, 10)


def test_a_partition_that_is_gone_is_a_typed_error_and_the_next_write_makes_it_again(
    store: RaceStore, database_url: str
) -> None:
    day = date(2022, 5, 7)
    store.ensure_partitions([day])
    with observe(database_url) as run:
        run("DROP TABLE money_flow_history_2022_05_07")
    snapshot = make_snapshot("race-2", race={"start_time": datetime(2022, 5, 7, 3, tzinfo=UTC), "race_date_nz": day})
    with pytest.raises(WriteError, match=r"no partition of relation.*`raceday db upgrade`") as caught:
        write(store, snapshot)
    assert not caught.value.retryable
    assert read_tables(database_url)["races"] == []
    assert write(store, snapshot).row_counts.money_flow_history == 8


@pytest.mark.parametrize(
    "race",
    [
        {"start_time": datetime(9999, 12, 31, 23, tzinfo=UTC), "race_date_nz": date(9999, 12, 31)},
        {"start_time": datetime(9999, 12, 30, tzinfo=UTC), "race_date_nz": date(9999, 12, 31)},
        {"start_time": datetime(1970, 1, 1, tzinfo=UTC), "race_date_nz": date(1970, 1, 1)},
        {"start_time": datetime(1, 1, 1, tzinfo=UTC), "race_date_nz": date(1, 1, 1)},
    ],
)
def test_a_start_that_cannot_be_meant_costs_its_race_and_makes_no_partition(
    store: RaceStore, database_url: str, race: dict[str, Any]
) -> None:
    store.ensure_partitions()
    before = list_partitions(database_url)
    with pytest.raises(WriteError, match="racing day") as caught:
        write(store, make_snapshot(race=race))
    assert (caught.value.retryable, caught.value.race_id) == (False, "race-1")
    assert list_partitions(database_url) == before


def test_an_upgrade_does_not_wait_for_ever_for_a_table(database_url: str) -> None:
    with observe(database_url) as run:
        run("BEGIN")
        run("LOCK TABLE raceday_schema IN ACCESS EXCLUSIVE MODE")
        try:
            with pytest.raises(DatabaseError, match="lock timeout"):
                upgrade(database_url, lock_timeout_ms=50)
        finally:
            run("ROLLBACK")


def test_a_partition_that_is_being_detached_is_none(store: RaceStore, database_url: str) -> None:
    day = date(2022, 5, 9)
    store.ensure_partitions([day])
    with observe(database_url) as reader, observe(database_url) as archiver:
        reader("BEGIN")
        reader("SELECT FROM odds_history")
        archiver("SET statement_timeout = 200")
        with pytest.raises(OperationalError, match="statement timeout"):
            archiver("ALTER TABLE odds_history DETACH PARTITION odds_history_2022_05_09 CONCURRENTLY")
        reader("ROLLBACK")
        with pytest.raises(WriteError, match="odds_history_2022_05_09"):
            store.ensure_partitions([day])
        archiver("ALTER TABLE odds_history DETACH PARTITION odds_history_2022_05_09 FINALIZE")
    assert store.ensure_partitions([day]) == ["odds_history_2022_05_09"]
