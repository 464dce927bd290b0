"""Temporary URLs: compressed images, each in a file of its own, served by a small HTTP server until they are withdrawn.

Each process has a folder of its own inside one that all of a user's processes share, and holds a lock on it: what a
killed process left is recognised by its free lock, and removed when the next one starts.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from raceday_dagster.errors import ImagesError

_REQUEST_TIMEOUT_S = 10.0


def choose_folder() -> Path:
    """Where this user's processes keep their temporary images, unless told otherwise."""
    return Path(tempfile.gettempdir()) / f"raceday-images-{os.getuid()}"


class TemporaryUrls:
    """Serves images at unguessable URLs; safe to share between threads.

    ``with TemporaryUrls() as urls:`` removes what killed processes left, listens, and at the end removes everything.

    Args:
        base_url: The address under which others reach this server, when a proxy or a tunnel leads to it.
        listen: ``host:port`` to listen on; port 0 takes any free one.
        folder: What the processes share; made if need be.
    """

    def __init__(self, base_url: str | None = None, *, listen: str = "127.0.0.1:0", folder: Path | None = None) -> None:
        self._base_url = base_url
        self._listen = listen
        self._shared = folder or choose_folder()
        self._live: dict[str, Path] = {}

    def __enter__(self) -> Self:
        """Raises ``ImagesError`` when the folder or the address cannot be used."""
        host, _, port = self._listen.rpartition(":")
        try:
            self._folder, self._lock = _take_folder(self._shared)
        except OSError as error:
            raise ImagesError(f"temporary images cannot be kept in {self._shared}: {error.strerror}") from error
        try:
            self._server = _Server((host, int(port)), _Handler)
        except OSError as error:
            self._remove_folder()
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
        self._remove_folder()

    def publish(self, jpeg: bytes) -> str:
        """Serves an image from now on; returns its name. Raises ``OSError`` when the disk is full."""
        name = f"{secrets.token_urlsafe(24)}.jpg"
        path = self._folder / name
        try:
            path.write_bytes(jpeg)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._live[name] = path
        return name

    def find_url(self, name: str) -> str:
        """Where a published image is."""
        return f"{self._base_url}/{name}"

    def withdraw(self, name: str) -> None:
        """Ends the URL and removes the file; a name that is gone already is no matter."""
        path = self._live.pop(name, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    live: dict[str, Path]

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
        path = self.server.live.get(self.path.partition("?")[0].rpartition("/")[2])
        try:
            body = path.read_bytes() if path is not None else None
        except OSError:
            body = None  # withdrawn this very moment
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


def _take_folder(shared: Path) -> tuple[Path, int]:
    """A new folder of this process, and the descriptor that holds the lock on it; left-over folders are removed.

    Raises:
        OSError: The shared folder cannot be used, or belongs to somebody else.
    """
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(shared):
        found = shared.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(0, "it belongs to somebody else")
        for left in shared.iterdir():
            _remove_if_left(left)
        own = Path(tempfile.mkdtemp(dir=shared, prefix=f"{os.getpid()}-"))
        lock = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return own, lock


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # locked by its process, or gone
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
