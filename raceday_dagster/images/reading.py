"""The bytes of a source: a file, or a download that ends in time and never strays into a private network."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import stat
import string
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from raceday_dagster.errors import ImageError
from raceday_dagster.images.sources import ImageSource, name_host

MAX_BYTES = 50_000_000
MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 5.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[Address]]


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host; raises ``OSError`` when it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address it may wrap, is one of the open internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class SourceReader:
    """Reads sources for several threads at once; ``close`` cuts every download that is under way.

    A download goes directly to the host, without a proxy: only so is the address it reaches the one that was looked at.
    """

    def __init__(self, *, resolve: Resolve = resolve, max_bytes: int = MAX_BYTES) -> None:
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False

    def read(self, source: ImageSource, timeout_s: float) -> bytes:
        """The bytes of the file, or of the first URL that is there.

        Raises:
            ImageError: Stage "read"; retryable for faults of the network, 429 and 5xx.
        """
        if source.path is not None:
            return self._read_file(source.path)
        ends_s = time.monotonic() + timeout_s
        for url in source.urls:
            data = self._download(url, source.private_host, ends_s)
            if data is not None:
                return data
        raise ImageError("not there (404)", stage="read")

    def close(self) -> None:
        """Cuts what is being downloaded; nothing is read after it."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                _shut_down(connection)

    def _read_file(self, path: Path) -> bytes:
        try:
            # Without a wait for a writer at the other end of a named pipe, which is refused in the next line.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ImageError("not a file", stage="read")
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}", stage="read") from error
        return self._check_size(data)

    def _check_size(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise self._too_large()
        if not data:
            raise ImageError("empty", stage="read")
        return data

    def _too_large(self) -> ImageError:
        return ImageError(f"larger than {self._max_bytes / 1_000_000:g} MB", stage="read")

    def _download(self, url: str, private_host: str | None, ends_s: float) -> bytes | None:
        """The body of the answer; ``None`` when there is none at that URL."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(url, private_host, ends_s)
            if not isinstance(answer, str):
                return answer
            url = urljoin(url, answer)
        raise ImageError(f"more than {MAX_REDIRECTS} redirects", stage="read")

    def _exchange(self, url: str, private_host: str | None, ends_s: float) -> bytes | str | None:
        """One request: the body, where it is redirected to, or ``None`` when there is nothing."""
        host, port, address = self._find_address(url, private_host, ends_s)
        parts = urlsplit(url)
        target = quote(parts.path or "/", safe=string.punctuation) + (
            "?" + quote(parts.query, safe=string.punctuation) if parts.query else ""
        )
        connection = http.client.HTTPConnection(host, port)
        try:
            with self._cutting(host, ends_s) as watch:
                timeout_s = min(CONNECT_TIMEOUT_S, max(ends_s - time.monotonic(), 0.001))
                connection.sock = socket.create_connection((address, port), timeout=timeout_s)
                watch(connection.sock)
                connection.sock.settimeout(None)  # from here on the cut is what ends it
                if parts.scheme == "https":
                    tls = ssl.create_default_context()
                    connection.sock = tls.wrap_socket(connection.sock, server_hostname=host)
                connection.request(
                    "GET",
                    target,
                    headers={"Host": parts.netloc, "User-Agent": "raceday", "Accept-Encoding": "identity"},
                )
                with connection.getresponse() as response:
                    location = response.getheader("Location")
                    if 300 <= response.status < 400 and location:
                        return location
                    return None if response.status in {404, 410} else self._read_body(host, response)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            wrong = isinstance(error, ssl.SSLCertVerificationError | UnicodeError | http.client.InvalidURL)
            raise ImageError(f"{host}: {reason}", stage="read", retryable=not wrong) from error
        finally:
            connection.close()

    def _read_body(self, host: str, response: http.client.HTTPResponse) -> bytes:
        if response.status != 200:
            raise _refusal(host, response)
        if (response.length or 0) > self._max_bytes:
            raise self._too_large()
        try:
            data = self._check_size(response.read(self._max_bytes + 1))
        except http.client.IncompleteRead as error:
            raise ImageError(f"{host} ended its answer early", stage="read", retryable=True) from error
        if response.length:
            raise ImageError(f"{host} ended its answer early", stage="read", retryable=True)
        return data

    def _find_address(self, url: str, private_host: str | None, ends_s: float) -> tuple[str, int, str]:
        """The host and port of a URL, and the address under which the host may be read."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise ImageError("redirected to what is not a URL", stage="read") from None
        if parts.scheme not in {"http", "https"} or not host:
            raise ImageError(f"redirected to {parts.scheme or 'nowhere'}: only http and https are read", stage="read")
        may_be_private = private_host == name_host(host, port, parts.scheme)
        addresses = self._look_up(host, port, ends_s)
        if not may_be_private and not all(map(is_public, addresses)):
            raise ImageError(f"{host} is a loopback or private address: refused", stage="read")
        return host, port, str(addresses[0])

    def _look_up(self, host: str, port: int, ends_s: float) -> list[Address]:
        """A name's addresses in time: whoever asks stops waiting, the thread ends when the resolver answers."""
        answer: Future[list[Address]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._resolve(host, port))
            except (OSError, UnicodeError) as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="image-resolve", daemon=True).start()
        try:
            return answer.result(timeout=max(ends_s - time.monotonic(), 0))
        except TimeoutError as error:
            raise ImageError(f"{host} could not be looked up in time", stage="read", retryable=True) from error
        except UnicodeError as error:
            raise ImageError("the URL has no valid host", stage="read") from error
        except OSError as error:
            raise ImageError(f"{host} is not known: {error.strerror}", stage="read", retryable=True) from error

    @contextmanager
    def _cutting(self, host: str, ends_s: float) -> Iterator[Callable[[socket.socket], None]]:
        """Gives what is told of the connection, which is shut when the time is over or the reader is closed, whatever
        the other side does."""
        cut = threading.Event()
        opened: list[socket.socket] = []

        def watch(sock: socket.socket) -> None:
            with self._lock:
                if self._closed:
                    raise ImageError("interrupted", stage="read", retryable=True)
                # A handle of our own stays valid when TLS or a closing response lets go of the socket.
                opened.append(socket.socket(fileno=os.dup(sock.fileno())))
                self._open.add(opened[0])
            timer.start()

        def fire() -> None:
            with self._lock:
                cut.set()
                for handle in opened:
                    _shut_down(handle)

        timer = threading.Timer(max(ends_s - time.monotonic(), 0), fire)
        timer.daemon = True
        try:
            yield watch
        finally:
            timer.cancel()
            with self._lock:
                for handle in opened:
                    self._open.discard(handle)
                    handle.close()
            # Whatever was read or raised, a connection that was shut here is the reason.
            if self._closed:
                raise ImageError("interrupted", stage="read", retryable=True)
            if cut.is_set():
                raise ImageError(f"{host} did not answer in time", stage="read", retryable=True)


def _refusal(host: str, response: http.client.HTTPResponse) -> ImageError:
    wait = (response.getheader("Retry-After") or "").strip()
    return ImageError(
        f"{host} answered {response.status}",
        stage="read",
        retryable=response.status in {408, 429} or response.status >= 500,
        retry_after_s=float(wait) if re.fullmatch(r"[0-9]{1,9}", wait) else None,
    )


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # never connected, or the other side was faster
        sock.shutdown(socket.SHUT_RDWR)
