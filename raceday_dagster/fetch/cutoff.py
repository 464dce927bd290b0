"""An end to every exchange, whatever the other side does: slow drips, silent resolvers, many dead addresses.

The time-out of ``requests`` starts anew with each byte received and does not cover name resolution. Here a timer shuts
the socket down instead. What to do about it is not decided here (see ``retries``).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import Future
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection


CONNECTING = "raceday-connect-ahead"
"""Threads that open connections before they are needed."""


class NoThreadError(RequestsConnectionError):
    """The machine has no thread left to watch or open a connection with."""


class CutOff:
    """Shuts down every socket the calling thread uses on a ``CuttingAdapter`` when its seconds are over.

    ``with CutOff(5) as cut:`` around request and body; ``cut.fired`` afterwards says that what was read, or the error
    that came instead, is the cut's doing.
    """

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self._ends = time.monotonic() + seconds
        self._timer = threading.Timer(max(seconds, 0), self._fire)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._over = False
        self._handles: list[socket.socket] = []

    def __enter__(self) -> Self:
        _start(self._timer)
        self._token: Token[CutOff | None] = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        self._timer.cancel()
        with self._lock:
            self._over = True
            for handle in self._handles:
                handle.close()

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(self._ends - time.monotonic(), 0)

    def watch(self, sock: socket.socket) -> None:
        """Has ``sock`` shut down when the time is over; at once if it is."""
        # A handle of our own stays valid while TLS detaches the socket or a closing response drops it, and its number
        # cannot come to mean another connection.
        handle = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            self._handles.append(handle)
            if self.fired:
                _shut_down(handle)

    def _fire(self) -> None:
        with self._lock:
            if not self._over:
                self.fired = True
                for handle in self._handles:
                    _shut_down(handle)


_current: ContextVar[CutOff | None] = ContextVar("raceday_cut_off", default=None)


class CuttingAdapter(HTTPAdapter):
    """An adapter whose connections obey the ``CutOff`` around the request, through an HTTP proxy too."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        cut = _current.get()
        if cut is None:
            return super()._new_conn()
        sock = self._connect_within(cut)
        cut.watch(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        cut = _current.get()
        if cut is not None and self.sock is not None:
            cut.watch(self.sock)
        super().request(*args, **kwargs)

    def _connect_within(self, cut: CutOff) -> socket.socket:
        """A connection in time or none: resolving a name and trying several addresses take no time-out.

        Whoever asks stops waiting; the thread ends by itself when the resolver answers, and closes what it opened.
        """
        opened: Future[socket.socket] = Future()
        seconds = cut.remaining_s()

        def open_socket() -> None:
            try:
                sock = self._try_addresses(cut)
            except (OSError, HTTPError) as error:
                if opened.set_running_or_notify_cancel():
                    opened.set_exception(error)
                return
            if opened.set_running_or_notify_cancel():
                opened.set_result(sock)
            else:
                sock.close()

        _start(threading.Thread(target=open_socket, name="raceday-connect", daemon=True))
        try:
            return opened.result(timeout=seconds)
        except TimeoutError as error:
            if opened.cancel():
                raise ConnectTimeoutError(self, f"no connection within {seconds:.1f} s") from error
            return opened.result()

    def _try_addresses(self, cut: CutOff) -> socket.socket:
        """A connection to the first address that takes one. Each has its share of what is left of the time: urllib3
        gives all of it to the first, which may be dead and say nothing."""
        host, timeout = self._dns_host, self.timeout
        try:
            addresses = [found[4][0] for found in socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)]
        except UnicodeError as error:
            raise NewConnectionError(self, f"{host!r} cannot be the name of a host") from error
        try:
            for left in range(len(addresses), 1, -1):
                self._dns_host, self.timeout = str(addresses[-left]), cut.remaining_s() / left
                try:
                    return super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError):
                    continue
            self._dns_host, self.timeout = str(addresses[-1]), cut.remaining_s()
            return super()._new_conn()
        finally:
            self._dns_host, self.timeout = host, timeout


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class CuttingPool(HTTPConnectionPool):
    """A pool whose connections obey the ``CutOff`` around them."""

    ConnectionCls = _Connection

    def connect_ahead(self, connections: int, seconds: float) -> None:
        """Opens so many connections for the requests to come, each in a thread of its own.

        They are taken out of the pool here, for one that is open already would be taken again and again.
        """
        for connection in [self._get_conn() for _ in range(connections)]:
            _start(threading.Thread(target=self._open, args=(connection, seconds), name=CONNECTING, daemon=True))

    def _open(self, connection: BaseHTTPConnection, seconds: float) -> None:
        try:
            with CutOff(seconds):
                if connection.is_closed:
                    connection.connect()
        except (HTTPError, OSError):  # a ``NoThreadError`` is one of the second; the request will say what is wrong
            connection.close()
        self._put_conn(connection)


class _TlsPool(CuttingPool, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": CuttingPool, "https": _TlsPool}


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError("no thread could be started") from error


def _shut_down(handle: socket.socket) -> None:
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        # Never connected, or the other side was faster: there is nothing left to cut.
        return
