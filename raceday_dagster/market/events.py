"""Polls as they are committed: one listening connection a process, and a stream of server-sent events a page.

The ledger says ``NOTIFY raceday`` in the transaction of each poll, so a page hears of it when its rows can be read. A
thread listens while a page is open. Where a notification does not come through (a pooler in transaction mode, a role
without a free connection), the ledger is read once a second instead, and listening is tried again after a while.
"""

from __future__ import annotations

import asyncio
import json
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.errors import DatabaseError
from raceday_dagster.market.views import MarketReader
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.transaction import connect_patiently

CHANNEL = "raceday"
LOOK_S = 1.0
"""Between two looks at whether a page is still open, and between two at the ledger where nothing can be heard."""
HEARD_WITHIN_S = 2.0
"""A notification to ourselves that takes longer does not come."""
ROUNDS_WITHOUT_LISTENING = 30
OVERLAP = timedelta(seconds=30)
"""A poll is committed after the instant it is dated, so the ledger is read again as far back."""
HEARTBEAT_S = 15.0
WAITING_EVENTS = 200
RESYNC = "event: resync\ndata: {}\n\n"
"""Something may have been missed: a page reads itself anew."""
HEARTBEAT = ": still here\n\n"
END = ""


@dataclass(frozen=True, eq=False)
class _Stream:
    """One open page: what it waits for, in the event loop that serves it."""

    race_id: str | None
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[str]

    def put(self, event: str) -> None:
        with suppress(RuntimeError):  # its loop has ended, and with it the page
            self.loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: str) -> None:
        with suppress(asyncio.QueueFull):  # a page that reads so slowly is told enough by the events it has
            self.queue.put_nowait(event)


class PollEvents:
    """The streams that are open, and the thread that feeds them while there is one.

    Args:
        database_url: Where to listen; a direct connection.
        market: Reads the ledger, and notifies us on trial.
        sleep: Called with seconds between two tries.
    """

    def __init__(
        self, database_url: SecretStr | str, market: MarketReader, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._engine = build_engine(database_url, pool_max=1).execution_options(isolation_level="AUTOCOMMIT")
        self._market = market
        self._sleep = sleep
        self._lock = threading.Lock()
        self._streams: set[_Stream] = set()
        self._thread: threading.Thread | None = None

    async def stream(self, race_id: str | None) -> AsyncIterator[str]:
        """Server-sent events of all races, or of one: ``poll`` with the ledger's notification, ``resync``, and a
        comment as a sign of life. Ends with its reader, or by ``end``."""
        stream = _Stream(race_id, asyncio.get_running_loop(), asyncio.Queue(WAITING_EVENTS))
        try:
            self._add(stream)
            yield "retry: 1000\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(stream.queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    event = HEARTBEAT
                if event == END:
                    return
                yield event
        finally:
            with self._lock:
                self._streams.discard(stream)

    def end(self) -> None:
        """Ends every stream: a server that is told to stop waits for the answers under way."""
        self._tell(END)

    def _add(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.add(stream)
            if self._thread is not None and self._thread.is_alive():
                stream.put(RESYNC)  # what was committed since its page was made was told to others
            else:
                self._thread = threading.Thread(target=self._run, name="poll-events", daemon=True)
                self._thread.start()

    def _is_wanted(self) -> bool:
        """Whether a page is open; if none is, the thread has ended with this answer."""
        with self._lock:
            if not self._streams:
                self._thread = None
            return bool(self._streams)

    def _run(self) -> None:
        while self._is_wanted():
            if not self._listen():
                self._read_ledger()

    def _listen(self) -> bool:
        """Passes on what is heard until no page is open or the connection is cut; false if nothing can be heard."""
        hears = False
        try:
            with self._listening() as connection:
                hears = self._hears_itself(connection)
                if hears:
                    self._tell(RESYNC)
                while hears and self._streams:
                    for heard in _wait(connection, LOOK_S):
                        self._pass_on(heard.payload)
        except (SQLAlchemyError, DatabaseError):
            pass
        return hears

    @contextmanager
    def _listening(self) -> Iterator[Connection]:
        """A connection that listens, closed at the end."""
        with connect_patiently(self._engine) as connection:
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            try:
                yield connection
            finally:
                connection.invalidate()

    def _hears_itself(self, connection: Connection) -> bool:
        """Whether what another connection sends arrives; a pooler in transaction mode swallows it."""
        trial = f"raceday_trial_{uuid4().hex}"
        connection.exec_driver_sql(f"LISTEN {trial}")
        self._market.notify(trial)
        given_up_s = time.monotonic() + HEARD_WITHIN_S
        while (left_s := given_up_s - time.monotonic()) > 0:
            if any(heard.channel == trial for heard in _wait(connection, left_s)):
                connection.exec_driver_sql(f"UNLISTEN {trial}")
                return True
        return False

    def _read_ledger(self) -> None:
        """Passes on what is new in the ledger, looking once a second, for half a minute."""
        since = datetime.now(UTC) - OVERLAP
        known: set[tuple[str, datetime]] | None = None
        for _round in range(ROUNDS_WITHOUT_LISTENING):
            if not self._streams:
                return
            try:
                rows = self._market.read_polls_since(since)
            except DatabaseError:
                known = None
            else:
                if known is None:
                    self._tell(RESYNC)
                for row in rows:
                    if known is not None and (row["race_id"], row["polled_at"]) not in known:
                        polled_at = row["polled_at"].isoformat()
                        self._pass_on(json.dumps({**row, "polled_at": polled_at}))
                known = {(row["race_id"], row["polled_at"]) for row in rows}
                since = max((row["polled_at"] for row in rows), default=since + OVERLAP) - OVERLAP
            self._sleep(LOOK_S)

    def _pass_on(self, payload: str) -> None:
        """One notification to the pages it is for; one that is not the ledger's is left out."""
        try:
            heard = json.loads(payload)
            race_id = heard["race_id"]
        except (ValueError, KeyError, TypeError):
            return
        event = f"event: poll\ndata: {json.dumps(heard)}\n\n"
        with self._lock:
            streams = [stream for stream in self._streams if stream.race_id in {None, race_id}]
        for stream in streams:
            stream.put(event)

    def _tell(self, event: str) -> None:
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.put(event)


def _wait(connection: Connection, seconds: float) -> list[Any]:
    """The notifications that have come, after at most so long."""
    driver: Any = connection.connection.driver_connection
    waiting = select.poll()  # select.select refuses the 1,024th open file of a process
    waiting.register(driver, select.POLLIN)
    if waiting.poll(1_000 * seconds):
        connection.exec_driver_sql("SELECT")  # the driver takes in what came, and says so if the connection was cut
    heard = list(driver.notifies)
    driver.notifies.clear()
    return heard
