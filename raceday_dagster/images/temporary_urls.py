"""Temporary URLs: compressed images in memory, served by a small HTTP server until they are withdrawn.

Nothing is ever on a disk, so a process that is killed leaves nothing behind.
"""

from __future__ import annotations

import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self

from raceday_dagster.errors import ImagesError

_REQUEST_TIMEOUT_S = 10.0


class TemporaryUrls:
    """Serves images at unguessable URLs; safe to share between threads.

    ``with TemporaryUrls() as urls:`` listens, and at the end withdraws everything.

    Args:
        base_url: The address under which others reach this server, when a proxy or a tunnel leads to it.
        listen: ``host:port`` to listen on; port 0 takes any free one.
    """

    def __init__(self, base_url: str | None = None, *, listen: str = "127.0.0.1:0") -> None:
        self._base_url = base_url
        self._listen = listen
        self._live: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        """Raises ``ImagesError`` when the address cannot be used."""
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = _Server((host, int(port)), _Handler)
        except OSError as error:
            raise ImagesError(f"cannot listen on {self._listen} (IMAGE_LISTEN): {error.strerror}") from error
        self._server.live = self._live
        self._base_url = self._base_url or f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="temporary-urls", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.clear()
        self._server.shutdown()
        self._server.server_close()

    def publish(self, jpeg: bytes) -> str:
        """Serves an image from now on; returns its name."""
        name = f"{secrets.token_urlsafe(24)}.jpg"
        self._live[name] = jpeg
        return name

    def find_url(self, name: str) -> str:
        """Where a published image is."""
        return f"{self._base_url}/{name}"

    def withdraw(self, name: str) -> None:
        """Ends the URL; a name that is gone already is no matter."""
        self._live.pop(name, None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    live: dict[str, bytes]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S
    protocol_version = "HTTP/1.0"
    server_version: ClassVar[str] = "raceday"  # type: ignore[misc]
    sys_version: ClassVar[str] = ""  # type: ignore[misc]

    def do_GET(self) -> None:
        """Sends one image, found by the last part of the path: a proxy in front may have put something before it."""
        body = self.server.live.get(self.path.partition("?")[0].rpartition("/")[2])
        if body is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the base class names it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Nothing is logged: a name in a log could be used while its image is live."""
