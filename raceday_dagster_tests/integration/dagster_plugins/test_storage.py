"""Dagster's own storage on the embedded PostgreSQL: few connections, kept, and one line when there is no database."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import deserialize_value, serialize_value
from dagster_postgres.auth import PgTokenProvider

from raceday_dagster.dagster_plugins import storage
from raceday_dagster.dagster_plugins.storage import PooledPostgresStorage, StorageError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.dagster_plugins import executor_jobs as jobs
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import probe, run
from raceday_dagster_tests.integration.defs.maintenance_fixture import DAGSTER_YAML
from raceday_dagster_tests.integration.postgres_fixture import ask, make_database

SECRET = "s3cret-of-dagster"
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for Dagster: nothing in it before the first test."""
    with make_database(embedded_postgres) as url:
        yield url


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)
    return tmp_path


@pytest.fixture
def instance(url: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


def _engine(instance: dg.DagsterInstance) -> sa.Engine:
    engine: sa.Engine = instance.event_log_storage._engine
    return engine


def _backends(url: str) -> int:
    """Connections to the database other than the one that asks."""
    return int(str(ask(url, f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS}")))


def test_a_run_of_five_steps_at_once_writes_its_events_over_the_pool_without_those_of_values_in_memory(
    instance: dg.DagsterInstance, url: str
) -> None:
    opened: list[object] = []
    sa.event.listen(_engine(instance), "connect", lambda connection, _: opened.append(connection))
    probe.reset(parties=5)
    result = run(jobs.meeting_job, instance, ops={"fan_out": {"items": 10}})
    assert result.success
    assert probe.peak == 5
    stored = [entry.dagster_event.event_type_value for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    assert sorted(stored) == sorted(event.event_type_value for event in result.all_events)
    assert {"STEP_START", "STEP_OUTPUT", "STEP_SUCCESS"} < set(stored)
    assert storage.LEFT_OUT.isdisjoint(stored)
    assert len(opened) <= storage.POOL_SIZE
    assert _backends(url) <= storage.POOL_SIZE


def test_a_second_run_asks_neither_for_columns_nor_for_the_plan_that_is_stored(instance: dg.DagsterInstance) -> None:
    asked: list[str] = []
    assert run(jobs.doubling_job, instance).success
    sa.event.listen(_engine(instance), "before_cursor_execute", lambda *given: asked.append(given[2]))
    created = instance.create_run_for_job(jobs.doubling_job)
    assert instance.run_storage.has_execution_plan_snapshot(created.execution_plan_snapshot_id)
    assert not instance.run_storage.has_execution_plan_snapshot("unheard of")
    assert any("INSERT INTO runs" in statement for statement in asked)
    assert not [statement for statement in asked if "pg_catalog" in statement or "snapshot_body" in statement]


def test_a_second_look_at_a_sensor_asks_for_no_tables(instance: dg.DagsterInstance) -> None:
    asked: list[str] = []
    first = instance.all_instigator_state()
    instance.schedule_storage.has_built_index("unheard of")
    sa.event.listen(_engine(instance), "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert instance.all_instigator_state() == first
    assert instance.schedule_storage.has_instigators_table()
    assert not instance.schedule_storage.has_built_index("unheard of")
    assert asked
    assert not [statement for statement in asked if "pg_catalog" in statement]


def test_the_three_storages_share_one_pool(instance: dg.DagsterInstance) -> None:
    engines = {instance.run_storage._engine, instance.event_log_storage._engine, instance.schedule_storage._engine}
    assert len(engines) == 1


def test_a_child_process_makes_the_same_storage_from_the_reference(instance: dg.DagsterInstance, url: str) -> None:
    reference = deserialize_value(serialize_value(instance.get_ref()), InstanceRef)
    with dg.DagsterInstance.from_ref(reference) as other:
        assert isinstance(reference.storage, PooledPostgresStorage)
        assert _engine(other).url == storage.normalise_url(url)
        assert isinstance(_engine(other).pool, sa.QueuePool)


def _terminate_backends(url: str) -> None:
    assert ask(url, f"SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OTHERS}")


def test_a_terminated_backend_is_replaced_and_nobody_notices(instance: dg.DagsterInstance, url: str) -> None:
    instance.get_runs()
    _terminate_backends(url)
    instance.get_runs()
    assert run(jobs.doubling_job, instance).success


def test_a_closed_instance_leaves_nothing_of_its_engine_in_memory(
    url: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    dialects: list[weakref.ref[sa.Dialect]] = []
    for _ in range(2):  # the first of a process may leave what is looked up once
        with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
            instance.get_run_records(limit=1)
            dialects.append(weakref.ref(_engine(instance).dialect))
    del instance
    gc.collect()
    assert dialects[-1]() is None


def test_a_closed_instance_leaves_no_connection(url: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    before = _backends(url)
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.get_runs()
        assert _backends(url) > before
    assert _backends(url) == before


def test_the_webserver_may_take_its_own_connections(instance: dg.DagsterInstance, url: str) -> None:
    shared = _engine(instance)
    instance.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=20)
    instance.get_runs()
    assert _engine(instance) is not shared
    assert shared.pool.status().count("Connections in pool: 0") == 1
    with _engine(instance).connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar_one() == "5s"


def test_the_webserver_does_not_notice_a_restart_either(instance: dg.DagsterInstance, url: str) -> None:
    instance.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=20)
    looks = (instance.get_runs, lambda: instance.all_logs("x"), instance.all_instigator_state)
    for _ in range(2):
        for look in looks:
            look()
        _terminate_backends(url)
    with _engine(instance).connect() as connection:
        assert connection.connection.driver_connection.get_dsn_parameters()["keepalives_idle"] == "5"


def test_options_of_the_url_are_honoured_by_all_who_connect(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE SCHEMA elsewhere"))
    options = "options=-csearch_path%3Delsewhere&application_name=mine&connect_timeout=7"
    made = PooledPostgresStorage(f"{url}&{options}")
    with dg.DagsterInstance.local_temp() as plain, engine.connect() as connection:
        assert plain.get_runs_count() == made.run_storage.get_runs_count() == 0
        tables = sa.inspect(connection).get_table_names(schema="elsewhere")
    assert set(tables) >= storage.MADE_FOR_EACH
    for part in (made.run_storage, made.event_log_storage, made.schedule_storage):
        part.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=20)
        with part._engine.connect() as connection:
            used = connection.connection.driver_connection.get_dsn_parameters()
            assert (used["application_name"], used["connect_timeout"]) == ("mine", "7")
            assert connection.execute(sa.text("SHOW search_path")).scalar_one() == "elsewhere"
        part._engine.dispose()


def test_a_token_takes_the_place_of_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = storage.normalise_url(url)
    asked: list[str] = []

    class Tokens(PgTokenProvider):
        def _fetch_token(self) -> tuple[str, float]:
            asked.append("token")
            return SECRET, float("inf")

    monkeypatch.setattr("dagster_postgres.auth.GcpWifTokenProvider", Tokens)
    config = {
        "auth_provider": {"gcp_wif": {}},
        "postgres_db": {
            "username": parsed.username,
            "hostname": "localhost",
            "db_name": parsed.database,
            "port": 5432,
            "params": {"host": parsed.query["host"]},
        },
    }
    made = PooledPostgresStorage.from_config_value(None, config)
    assert made.run_storage.get_runs_count() >= 0
    assert asked
    made.run_storage.dispose()


def test_an_old_server_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "OLDEST_SERVER", (99,))
    with pytest.raises(StorageError, match=r"is PostgreSQL \d+; 99 or newer is needed"):
        PooledPostgresStorage(url)


def test_several_hosts_are_tried_in_turn() -> None:
    several = storage.normalise_url("postgresql://u:p@127.0.0.1:1,127.0.0.1:2/d?target_session_attrs=read-write")
    assert several.query["port"] == "1,2"
    with pytest.raises(StorageError, match=r"port 1 failed: .*; .*port 2 failed: Connection refused\. Look at"):
        storage.open_connection(storage.build_storage_engine(several), 0.0)


def test_a_database_that_goes_away_is_one_error_of_ours_and_no_line_in_the_logs(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise sa.exc.OperationalError("connect", {}, ConnectionError("gone"))

    monkeypatch.setattr(storage, "WRITE_WITHIN_S", 0.0)
    _engine(instance).dispose()
    sa.event.listen(_engine(instance), "do_connect", refuse)
    questions = [
        instance.get_daemon_heartbeats,
        lambda: instance.get_run_by_id("x"),
        lambda: instance.all_logs("x"),
        instance.all_instigator_state,
    ]
    for question in questions:
        with pytest.raises(StorageError, match="cannot be reached: gone"):
            question()
    assert caplog.records == []


FORKING_RUN = """
import os
import dagster as dg, sqlalchemy as sa
from raceday_dagster_tests.integration.dagster_plugins.storage_contract_fixture import entry
def backend():
    with log._engine.connect() as connection:
        return connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
def say(message):
    log.store_event(entry("forking", step="step", message=message))
with dg.DagsterInstance.get() as instance:
    log = instance.event_log_storage
    child, before = None, backend()
    with log.buffered():
        say("before")
        instance.all_logs("forking")
        log._buffer._writing.acquire()  # its thread is in the middle of something
        child = os.fork()
        if child:
            log._buffer._writing.release()
            _, status = os.waitpid(child, 0)
        else:
            say("child")
    if child == 0:
        os._exit(0 if len(instance.all_logs("forking")) == 2 and backend() != before else 1)
    said = [entry.user_message for entry in instance.all_logs("forking")]
    print(os.waitstatus_to_exitcode(status), backend() == before, *said)
"""


def test_a_child_forked_during_a_run_leaves_its_parents_connection_alone_and_writes_its_own_events_only(
    url: str, dagster_home: Path
) -> None:
    environment = os.environ | {"DAGSTER_HOME": str(dagster_home), "DAGSTER_PG_URL": url}
    command = [sys.executable, "-W", "ignore", "-c", FORKING_RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["0", "True", "before", "child"], done.stderr


def test_a_server_that_vanishes_is_noticed_in_seconds_unless_the_url_says_otherwise(url: str) -> None:
    engine = storage.build_storage_engine(storage.normalise_url(url).update_query_dict({"keepalives_count": "7"}))
    with storage.open_connection(engine, 5.0) as connection:
        used = connection.connection.driver_connection.get_dsn_parameters()
    engine.dispose()
    assert used["keepalives_count"] == "7"
    assert {name: used[name] for name in ("keepalives_idle", "keepalives_interval", "tcp_user_timeout")} == {
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "tcp_user_timeout": "11000",
    }


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_postgresql_url_is_one_for_psycopg2(scheme: str) -> None:
    url = storage.normalise_url(f"{scheme}://user:p%40ss@host:5433/name?sslmode=require")
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == ("user", "p@ss", "host", 5433, "name")
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"{SECRET}",
        f"postgresql://u:{SECRET}@h:port/d",
        "",
        f"postgresql://u@h:{SECRET}/d",
        f"postgresql://u:p@{SECRET}@h/d",
        f"postgresql://u:p#{SECRET}@h/d",
    ],
)
def test_what_is_no_postgresql_url_is_refused_in_one_line_without_its_password(url: str) -> None:
    with pytest.raises(StorageError) as refused:
        storage.normalise_url(url)
    assert "\n" not in refused.value.message
    assert "raceday sandbox" in refused.value.message
    assert SECRET not in refused.value.message


def test_a_server_that_comes_up_late_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = storage.build_storage_engine(storage.normalise_url(url))
    refusals = [sa.exc.OperationalError("connect", {}, ConnectionError("starting up"))] * 2

    def refuse_twice(*_: object) -> None:
        if refusals:
            raise refusals.pop()

    sa.event.listen(engine, "do_connect", refuse_twice)
    storage.open_connection(engine, 1.0, clock=lambda: 0.0, sleep=lambda _: None).close()
    assert refusals == []
    engine.dispose()
