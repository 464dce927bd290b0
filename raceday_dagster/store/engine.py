"""The one pool of connections of a process, and what can be seen of its use.

Everything here is safe behind PgBouncer in transaction mode: no ``options=`` at start-up, no session-level setting
(``transaction`` sets what it needs with ``SET LOCAL``), no named prepared statement, no session-level lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event
from sqlalchemy.pool import QueuePool

from raceday_dagster.racing.outcomes import ConnectionUse
from raceday_dagster.settings import parse_database_url
from raceday_dagster.store.sql_errors import READ_ONLY_TRANSACTION, read_sqlstate

CONNECT_ARGS: Mapping[str, str | int] = {
    "application_name": "raceday",
    "connect_timeout": 3,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Of libpq, seconds but for the milliseconds of ``tcp_user_timeout``. A server that is gone is given up after about ten
seconds, whether something was sent or its answer is awaited; otherwise a cut network keeps a write for hours."""
KEPT_OPEN = 2
"""Idle connections a process keeps. The role's ceiling is shared by all of them, and a batch has a connection in use
for a few hundredths of its time: one that sat on all it ever opened would shut the next batch out."""
POOL_MAX = "raceday_pool_max"


def choose_connect_args(url: URL) -> dict[str, str | int]:
    """``CONNECT_ARGS`` without those that a URL sets itself."""
    return {name: value for name, value in CONNECT_ARGS.items() if name not in url.query}


def build_engine(database_url: SecretStr | str, *, pool_max: int, checkout_timeout_s: float = 2.0) -> Engine:
    """An engine whose pool never opens more than ``pool_max`` connections.

    A checkout waits ``checkout_timeout_s`` for a free connection, then raises ``sqlalchemy.exc.TimeoutError``.
    Nothing connects yet. Errors of this engine never show parameters, which may hold payload text.
    """
    url = parse_database_url(database_url.get_secret_value() if isinstance(database_url, SecretStr) else database_url)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=min(KEPT_OPEN, pool_max),
        max_overflow=max(0, pool_max - KEPT_OPEN),
        pool_timeout=checkout_timeout_s,
        pool_pre_ping=True,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args=choose_connect_args(url),
        execution_options={POOL_MAX: pool_max},
    )
    event.listen(engine, "handle_error", _leave_demoted_server)
    return engine


def _leave_demoted_server(context: ExceptionContext) -> None:
    """Has the pool open every connection anew: those to a server that lost its role pass the ping and refuse writes."""
    if read_sqlstate(context.original_exception) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


class PoolGauge:
    """How many connections of an engine's pool are out, how many threads wait for one, and the most of each.

    ``waiting`` counts the threads that asked through ``asking`` while every connection was out or already claimed.
    ``peak`` and ``waiting_peak`` are the most at once since the start or ``reset_peak``.
    """

    def __init__(self, engine: Engine) -> None:
        self.max = int(engine.get_execution_options()[POOL_MAX])
        self.peak = 0
        self.waiting = 0
        self.waiting_peak = 0
        self._engine = engine
        self._lock = threading.Lock()
        self._asking = 0
        event.listen(engine, "checkout", self._on_checkout)

    @property
    def _pool(self) -> QueuePool:
        # Asked anew each time: an engine that is disposed of has another pool afterwards.
        pool = self._engine.pool
        if not isinstance(pool, QueuePool):
            raise TypeError("a gauge needs an engine with a QueuePool")
        return pool

    @property
    def in_use(self) -> int:
        """Connections out now."""
        return self._pool.checkedout()

    @property
    def opened(self) -> int:
        """Connections that are open now, in use or idle."""
        return self._pool.checkedin() + self._pool.checkedout()

    def reset_peak(self) -> None:
        """Starts both peaks again from what is in use and waiting now."""
        with self._lock:
            self.peak = self.in_use
            self.waiting_peak = self.waiting

    def read_use(self) -> ConnectionUse:
        """The ceiling and the peaks."""
        return ConnectionUse(max=self.max, peak=self.peak, waiting_peak=self.waiting_peak, opened=self.opened)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Wraps one checkout, so that a wait for it is seen."""
        with self._lock:
            waits = self.in_use + self._asking >= self.max
            self._asking += 1
            self.waiting += waits
            self.waiting_peak = max(self.waiting_peak, self.waiting)
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
                self.waiting -= waits

    def _on_checkout(self, *_: Any) -> None:
        with self._lock:
            self.peak = max(self.peak, self.in_use)
