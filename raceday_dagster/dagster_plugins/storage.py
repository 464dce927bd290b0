"""Dagster's PostgreSQL storage on pooled connections: name `PooledPostgresStorage` in `dagster.yaml`.

dagster-postgres opens a connection for each statement, which costs several times the statement itself. Here its three
storages (runs, events, schedules) share one small pool. Belongs here: where Dagster's database is, and how connections
to it are kept. Does not: the application's own database, which has a pool and a limit of its own.

A process keeps at most `POOL_SIZE` connections open. A run writes its events over one, however many steps it has at
once, because Dagster's log handlers let one thread through at a time. More are opened while more threads need one and
closed after: the pool never makes a thread wait, so one that takes a second while it holds a first cannot lock up.

A database that is away is one `StorageError` after seconds, whoever asks: dagster-postgres logs each try of its own.
"""

import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import click
import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.config import pg_config
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres.auth import PgTokenProvider, register_do_connect_hook
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, set_pg_statement_timeout
from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from raceday_dagster.dagster_plugins.event_buffer import ROWS_AT_ONCE, EventBuffer, Row

URL_VARIABLE = "DAGSTER_PG_URL"
POOL_SIZE = 2
CONNECT_ARGUMENTS = {
    "connect_timeout": 5,  # seconds
    # A host that vanishes is noticed in 11 s, where the system's own defaults are two hours, and 15 minutes while
    # something sent waits to be acknowledged.
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,  # milliseconds
}
REACH_WITHIN_S = 3.0  # a server that restarts is back by then
MADE_FOR_EACH = {"runs", "instance_info", "event_logs", "jobs", "job_ticks"}
"""Tables whose absence makes one of the three storages create its own."""
WRITE_WITHIN_S = 10.0  # with a run to lose, about as long as dagster-postgres tries
VACUUMED_TABLES = ("event_logs", "runs", "run_tags", "asset_event_tags", "dynamic_partitions", "job_ticks")
"""Those that runs and ticks fill."""
LOOK_FOR_TABLES = "SELECT bool_or(to_regclass(name) IS NULL) FROM unnest(%(names)s) AS name"
OLDEST_SERVER = (14,)
_DRIVERS = dict.fromkeys(("postgres", "postgresql", "postgresql+psycopg2"), "postgresql+psycopg2")
_USER_AND_PASSWORD = re.compile(r"[^:/?#\[\]@]*(:[^:/?#\[\]@]*)?")
_HOST_AND_PORT = re.compile(r"^(\[[^\]]*\]|[^:]*):?(.*)$")
_ADVICE = f"Look at {URL_VARIABLE}; `raceday sandbox -- COMMAND` runs a command with a working one."

LEFT_OUT = frozenset(
    kind.value
    for kind in (
        dg.DagsterEventType.STEP_INPUT,
        dg.DagsterEventType.LOADED_INPUT,
        dg.DagsterEventType.HANDLED_OUTPUT,
    )
)
"""What a value does between two steps of one process, where it stays in memory: half of a run's events, and nothing in
the UI is made of them."""

_EVENTS = SqlEventLogStorageTable.c
_INSERT_EVENT = SqlEventLogStorageTable.insert().inline()
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_proven: set[tuple[URL, str]] = set()
_event_logs: "weakref.WeakSet[_EventLogStorage]" = weakref.WeakSet()


class StorageError(click.ClickException):
    """Dagster's database is not given, not a PostgreSQL URL, or out of reach: one line, without the password."""


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` whose three storages share one pool.

    Config: that of `DagsterPostgresStorage`, tokens of an `auth_provider` instead of a password included; without
    `postgres_url` and `postgres_db`, `DAGSTER_PG_URL` is the address. Raises `StorageError`.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        url = normalise_url(postgres_url)
        engine = build_storage_engine(url, token_provider)
        with open_connection(engine, REACH_WITHIN_S) as connection:
            version = connection.dialect.server_version_info or OLDEST_SERVER
            if version < OLDEST_SERVER:
                raise StorageError(
                    f"Dagster's storage, {describe_place(engine)}, is PostgreSQL {version[0]}; "
                    f"{OLDEST_SERVER[0]} or newer is needed. {_ADVICE}"
                )
            # Each of the three would look for itself, and a run waits for it.
            is_missing = connection.exec_driver_sql(LOOK_FOR_TABLES, {"names": sorted(MADE_FOR_EACH)}).scalar_one()
        self.postgres_url = url.render_as_string(hide_password=False)
        self.should_autocreate_tables = should_autocreate_tables
        self._inst_data = inst_data
        given = (self.postgres_url, should_autocreate_tables and is_missing, None, token_provider)
        self._run_storage = _RunStorage(*given)
        self._event_log_storage = _EventLogStorage(*given)
        self._schedule_storage = _ScheduleStorage(*given)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine  # in place of one without a pool, which holds nothing to close

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return pg_config()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        url = config_value.get("postgres_url")
        if not url and (database := config_value.get("postgres_db")):
            url = URL.create(
                "postgresql",
                username=database["username"],
                password=database.get("password") or None,
                host=database["hostname"],
                port=database.get("port"),
                database=database["db_name"],
                query={name: str(value) for name, value in database.get("params", {}).items()},
            ).render_as_string(hide_password=False)
        url = url or os.environ.get(URL_VARIABLE)
        if not url:
            raise StorageError(f"{URL_VARIABLE}, the PostgreSQL URL of Dagster's own storage, is not set. {_ADVICE}")
        autocreate = config_value.get("should_autocreate_tables", True)
        return cls(url, autocreate, inst_data, get_token_provider_from_config(config_value))


def normalise_url(url: str) -> URL:
    """Read any `postgres://` or `postgresql://` URL, of one host or of several as libpq writes them, as one for
    psycopg2. Raises `StorageError`, which repeats nothing of a wrong one: any part may be of the password."""
    scheme, _, rest = url.strip().partition("://")
    credentials, at, location = rest.rpartition("@")
    if not _USER_AND_PASSWORD.fullmatch(credentials):
        raise StorageError(
            f"{URL_VARIABLE}: percent-encode the password (@ is %40, : %3A, / %2F, ? %3F, # %23, [ %5B). {_ADVICE}"
        )
    several = {}
    if "," in (servers := re.split("[/?]", location, maxsplit=1)[0]):
        location = location.removeprefix(servers)
        pairs = [_HOST_AND_PORT.findall(server)[0] for server in servers.split(",")]
        several = {
            "host": ",".join(host.strip("[]") for host, _ in pairs),
            "port": ",".join(port or "5432" for _, port in pairs),
        }
    try:
        parsed = make_url(f"{scheme}://{credentials}{at}{location}").update_query_dict(several)
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
        parsed.get_dialect()().create_connect_args(parsed)  # reads what the query says of hosts and ports
    except (ArgumentError, KeyError, ValueError):
        raise StorageError(
            f"{URL_VARIABLE} must look like postgresql://user:password@host:5432/database. {_ADVICE}"
        ) from None
    return parsed


def build_storage_engine(url: URL, token_provider: PgTokenProvider | None = None, **pool: int) -> Engine:
    """Build the engine that the storages of a process share; `pool` is in place of a size without a bound."""
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_pre_ping=True,  # 0.1 ms, and a restart of the server goes unnoticed
        insertmanyvalues_page_size=ROWS_AT_ONCE,  # more would be several statements, each stored or not
        connect_args={name: value for name, value in CONNECT_ARGUMENTS.items() if name not in url.query},
        **(pool or {"pool_size": POOL_SIZE, "max_overflow": -1}),
    )
    if token_provider is not None:
        register_do_connect_hook(engine, token_provider)
    _engines.add(engine)
    return engine


def describe_place(engine: Engine) -> str:
    """Name a database and its servers, without credentials."""
    given = engine.dialect.create_connect_args(engine.url)[1]
    host = given.get("host", "the local socket")
    port = "" if "host" not in given or host.startswith("/") else f", port {given.get('port', 5432)}"
    return f"database {engine.url.database or '(none named)'} on {host}{port}"


def open_connection(
    engine: Engine,
    within_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Connection:
    """Try to connect for `within_s`, without a word in the logs. Raises `StorageError` with the server's reason."""
    give_up_at_s = clock() + within_s
    while True:
        try:
            return engine.connect()
        except DBAPIError as error:
            if clock() >= give_up_at_s:
                # Each of several servers has a line; what is indented explains the line before it.
                lines = [line for line in str(error.orig).splitlines() if line.strip() and not line[0].isspace()]
                place, reason = describe_place(engine), "; ".join(lines)
                raise StorageError(f"Dagster's storage, {place}, cannot be reached: {reason}. {_ADVICE}") from error
            sleep(0.3)


def is_on(instance: dg.DagsterInstance, url: str) -> bool:
    """Whether an instance keeps its runs in a `PooledPostgresStorage` on that database."""
    storage = instance.run_storage
    return isinstance(storage, _RunStorage) and storage._engine.url == normalise_url(url)


def vacuum(instance: dg.DagsterInstance) -> tuple[str, ...]:
    """Give the space of deleted rows back, where an instance keeps its runs in a `PooledPostgresStorage`, however long
    that takes; return the names of the tables. Raises what SQLAlchemy raises."""
    storage = instance.run_storage
    if not isinstance(storage, _RunStorage):
        return ()
    with storage.connect() as connection:
        try:
            connection.exec_driver_sql("SET statement_timeout = 0")
            for table in VACUUMED_TABLES:
                connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        finally:
            connection.invalidate()  # the pool must not hand the setting on
    return VACUUMED_TABLES


class _Reached:
    """How the three storages connect."""

    _engine: Engine
    _token_provider: PgTokenProvider | None

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Take connections of its own, as Dagster wants it, but such that a restart of the server goes unnoticed."""
        engine = build_storage_engine(
            self._engine.url, self._token_provider, pool_size=1, pool_recycle=pool_recycle, max_overflow=max_overflow
        )
        event.listen(engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout))
        self._engine.dispose()  # the one that all three share until here
        self._engine = engine

    def connect(self, *_: str | None, **_named: str | None) -> Connection:
        return open_connection(self._engine, WRITE_WITHIN_S)

    def _ask_once(self, ask: Callable[[], bool]) -> bool:
        """Whether the database has some table or column, which Dagster asks for each run, event and tick, and which is
        never untrue again. SQLAlchemy keeps a hundred kilobytes of each engine whose tables it looks at, of 128 of
        them."""
        fact = self._engine.url, ask.__name__
        if fact not in _proven and ask():
            _proven.add(fact)
        return fact in _proven


class _RunStorage(_Reached, PostgresRunStorage):
    def has_run_stats_index_cols(self) -> bool:
        return self._ask_once(super().has_run_stats_index_cols)

    def has_backfill_id_column(self) -> bool:
        return self._ask_once(super().has_backfill_id_column)

    def has_execution_plan_snapshot(self, execution_plan_snapshot_id: str) -> bool:
        return self._has_snapshot_id(execution_plan_snapshot_id)  # the stock method reads and builds the whole plan

    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()


class _EventLogStorage(_Reached, PostgresEventLogStorage):
    _buffer: EventBuffer | None = None

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.forget_buffer()
        _event_logs.add(self)

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event with one statement, compiled once.

        The stock method builds and compiles its statement for each event, asks for the new id, and sends a NOTIFY that
        Dagster no longer listens to. Events about assets need the id: they go the stock way.
        """
        if event.dagster_event is not None and event.dagster_event.event_type in ASSET_EVENTS | ASSET_CHECK_EVENTS:
            super().store_event(event)
            return
        buffer = self._buffer
        row = self._event_to_row(event)
        if buffer is None:
            self._insert([row])
        elif event.step_key is None:  # what is said of the run itself is the end of a chapter
            buffer.flush(row)
        else:
            buffer.add(row)

    @contextmanager
    def buffered(self) -> Iterator[frozenset[str]]:
        """Let a thread write what the steps of a run say, while they go on; the value is what need not be said. All of
        it is written when the block ends, before an event of the run itself, and before anything is read; a process
        that is killed loses the last twentieth of a second. Without it each step waits for its own events in turn, and
        with it most of them share a statement. Runs at the same time share a buffer.
        """
        with self._entering:
            buffer = self._buffer = self._buffer or EventBuffer(self._insert, self._is_stored)
            self._users += 1
        try:
            yield LEFT_OUT
        finally:
            if self._buffer is buffer:  # and not in a process forked meanwhile
                self._leave(buffer)

    def _leave(self, buffer: EventBuffer) -> None:
        with self._entering:
            self._users -= 1
            if self._users:
                buffer.flush()
                return
            try:
                buffer.close()
            finally:
                self._buffer = None

    def forget_buffer(self) -> None:
        self._buffer, self._users, self._entering = None, 0, threading.Lock()

    def _insert(self, rows: list[Row]) -> None:
        with open_connection(self._engine, WRITE_WITHIN_S) as connection:
            connection.execute(_INSERT_EVENT, rows)

    def _is_stored(self, row: Row) -> bool:
        same = select(_EVENTS.id).where(_EVENTS.run_id == row["run_id"], _EVENTS.event == row["event"]).limit(1)
        with open_connection(self._engine, WRITE_WITHIN_S) as connection:
            return connection.execute(same).first() is not None

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        if (buffer := self._buffer) is not None:
            buffer.flush()
        with self.connect() as connection:
            yield connection

    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()


class _ScheduleStorage(_Reached, PostgresScheduleStorage):
    def has_instigators_table(self) -> bool:
        return self._ask_once(super().has_instigators_table)

    def has_secondary_index_table(self) -> bool:
        return self._ask_once(super().has_secondary_index_table)


def _leave_all_to_parent() -> None:
    """In a forked child: the parent goes on using the sockets, and its thread writes what is gathered."""
    for engine in _engines:
        engine.dispose(close=False)
    for event_log in _event_logs:
        event_log.forget_buffer()


os.register_at_fork(after_in_child=_leave_all_to_parent)
