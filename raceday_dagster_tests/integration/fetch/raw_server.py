"""A server of raw sockets on 127.0.0.1, for faults that no HTTP server commits on purpose."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

ENDLESS_S = 20.0
"""Longer than any server here goes on by itself: a fetch that ends earlier was cut off."""

Talk = Callable[[socket.socket], None]


def frame(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class RawServer:
    """Answers the n-th request with the n-th of its ``talks``, the last one for ever; counts what it sees."""

    talks: Sequence[Talk]
    keep_alive: bool = False
    greeting: bytes = b""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.05)
        self.port = self.listener.getsockname()[1]

    def serve(self, pool: ThreadPoolExecutor) -> None:
        while not self.stopping.is_set():
            try:
                accepted, _ = self.listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            accepted.settimeout(5)
            pool.submit(self.attend, accepted)

    def attend(self, accepted: socket.socket) -> None:
        try:
            with accepted as connection:
                connection.sendall(self.greeting)
                while request := self.read_request(connection):
                    with self.lock:
                        self.requests.append(request)
                        talk = self.talks[min(len(self.requests), len(self.talks)) - 1]
                    talk(connection)
                    if not self.keep_alive:
                        return
        except OSError:
            # The client hung up: most faults here are meant to make it.
            return

    def read_request(self, connection: socket.socket) -> bytes:
        request, size = b"", 0
        while b"\r\n\r\n" not in request or len(request) < size:
            part = connection.recv(4096)
            if not part:
                return b""
            request += part
            head, ended, _body = request.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            size = len(head + ended) + int(length[1] if length else 0)
        return request

    def read_posted(self) -> list[Any]:
        """What was posted to it, as JSON."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]

    def drip(self, connection: socket.socket, start: bytes, drop: bytes) -> None:
        """``start``, then ``drop`` ten times a second until the client or the test ends it."""
        connection.sendall(start)
        ends = time.monotonic() + ENDLESS_S
        while time.monotonic() < ends and not self.stopping.wait(0.1):
            connection.sendall(drop)


@contextmanager
def serving(*talks: Talk, keep_alive: bool = False, greeting: bytes = b"") -> Iterator[RawServer]:
    server = RawServer(talks, keep_alive, greeting)
    with ThreadPoolExecutor(12) as pool:
        loop = threading.Thread(target=server.serve, args=(pool,))
        loop.start()
        try:
            yield server
        finally:
            server.stopping.set()
            loop.join()
            server.listener.close()


def say(answer: bytes) -> Talk:
    return lambda connection: connection.sendall(answer)


def hang_up_at_once(connection: socket.socket) -> None:
    # Lingering for 0 seconds makes the close a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
