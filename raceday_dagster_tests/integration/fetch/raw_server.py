"""A server of raw sockets on 127.0.0.1, for faults that no HTTP server commits on purpose."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

ENDLESS_S = 20.0
"""Longer than any server here goes on by itself: a fetch that ends earlier was cut off."""

Talk = Callable[[socket.socket], None]


def frame(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class RawServer(socketserver.ThreadingTCPServer):
    """Answers the n-th request with the n-th of its ``talks``, the last one for ever; counts what it sees."""

    request_queue_size = 16

    def __init__(self, talks: Sequence[Talk], keep_alive: bool, greeting: bytes) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.talks, self.keep_alive, self.greeting = talks, keep_alive, greeting
        self.port = self.server_address[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(5)
        # Most faults here are meant to make the client hang up.
        with suppress(OSError):
            request.sendall(self.greeting)
            while asked := self.read_request(request):
                with self.lock:
                    self.requests.append(asked)
                    talk = self.talks[min(len(self.requests), len(self.talks)) - 1]
                talk(request)
                if not self.keep_alive:
                    return

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)

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
    with RawServer(talks, keep_alive, greeting) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.05,))
        loop.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            loop.join()


def say(answer: bytes) -> Talk:
    return lambda connection: connection.sendall(answer)


def hang_up_at_once(connection: socket.socket) -> None:
    # Lingering for 0 seconds makes the close a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
