"""Rows on their way to the database: gathered by the threads of a run, written in order by a thread of their own.

Belongs here: what is written when, by whom, and what becomes of rows that could not be written. Does not: statements
and connections, which `storage` brings along. Writing must not log: Dagster's log handlers let one thread through at a
time, and the one inside may be waiting here for the writing to end.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

Row = dict[str, Any]

ROWS_AT_ONCE = 1000  # one statement
MOST_GATHERED = 10_000
GATHER_FOR_S = 0.05
_READ_ONLY = "25006"  # the server is a standby at present


class EventBuffer:
    """Takes rows without waiting for the database, while its thread can write them, `GATHER_FOR_S` after the first.

    When the thread meets a database that is away, it rests: whoever adds the next row writes it, after all before it,
    and gets the error. What was gathered stays, and the first success sets the thread to work again. A row that the
    database will not take is dropped with a line on stderr, or raised to whoever is waiting for it.

    `write` sends rows as one statement; `is_stored` says whether a row is there. It is asked for the first row of a
    statement that ended without an answer. (A server that still works on that statement then stores it twice.)
    """

    def __init__(self, write: Callable[[list[Row]], None], is_stored: Callable[[Row], bool]) -> None:
        self._write = write
        self._is_stored = is_stored
        self._writing = threading.Lock()
        self._writer: int | None = None  # the thread that holds it
        self._changed = threading.Condition()
        self._rows: list[Row] = []
        self._sent = 0  # so many of the first rows are in a statement without an answer
        self._is_open = self._is_working = True
        self._thread = threading.Thread(target=self._work, name="event buffer", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Leave a row to the thread. Waits while too many are left to it."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._rows) < MOST_GATHERED or not self._is_working or self._is_own_writing()
            )
            if self._is_working:
                self._rows.append(row)
                if len(self._rows) == 1:
                    self._changed.notify_all()
                return
        self.flush(row)

    def flush(self, row: Row | None = None) -> None:
        """Write what is gathered, and then `row`, which is not kept when that raises."""
        if self._is_own_writing():  # a log handler or a signal came back here: the next flush takes it
            self._rows.extend([row] if row else [])
            return
        with self._writing:
            try:
                self._writer = threading.get_ident()
                try:
                    self._write_gathered()
                except DBAPIError as error:
                    if not error.connection_invalidated:
                        raise
                    self._write_gathered()  # over a new one
                if row is not None:
                    self._write([row])
            finally:
                self._writer = None
        with self._changed:
            self._is_working = self._is_open
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and write the rest. Rows that come after are written at once."""
        with self._changed:
            self._is_open = self._is_working = False
            self._changed.notify_all()
        self._thread.join()
        self.flush()

    def _is_own_writing(self) -> bool:
        return self._writer == threading.get_ident()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: (self._rows and self._is_working) or not self._is_open)
                # One statement for several rows costs little more than one for a row.
                self._changed.wait_for(lambda: not self._is_open, GATHER_FOR_S)
                if not self._is_open:
                    return
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - a thread has no caller: whoever adds the next row meets the error
                with self._changed:
                    self._is_working = False
                    self._changed.notify_all()

    def _write_gathered(self) -> None:
        if self._rows[: self._sent] and self._is_stored(self._rows[0]):
            self._forget(self._sent)
        left = len(self._rows)  # others go on adding
        while left:
            size = min(left, ROWS_AT_ONCE)
            try:
                self._send(size)
            except (ValueError, StatementError) as error:
                if not _is_about_rows(error):
                    raise
                self._send_one_by_one(size)
            left -= size

    def _send(self, size: int) -> None:
        self._sent = size
        self._write(self._rows[:size])
        self._forget(size)

    def _send_one_by_one(self, size: int) -> None:
        for _ in range(size):
            try:
                self._send(1)
            except (ValueError, StatementError) as error:
                if not _is_about_rows(error):
                    raise
                reason = str(error).partition("\n")[0]
                sys.stderr.write(f"An event of run {self._rows[0]['run_id']} cannot be stored: {reason}\n")
                self._forget(1)

    def _forget(self, size: int) -> None:
        with self._changed:
            del self._rows[:size]
            self._sent = 0
            self._changed.notify_all()


def _is_about_rows(error: ValueError | StatementError) -> bool:
    """Whether the database will not take what it was sent; otherwise it could not be asked, or takes nothing now."""
    code = getattr(error.orig, "pgcode", None) if isinstance(error, StatementError) else None
    if isinstance(error, OperationalError):
        return str(code).startswith("54")  # larger than the server can store
    return code != _READ_ONLY and not (isinstance(error, DBAPIError) and error.connection_invalidated)
