"""Somebody who is told: a web server that keeps what is posted to it, and answers as a test wants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Told:
    """What was posted, and the status of each answer."""

    url: str = ""
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def listening(status: int = 200) -> Iterator[Told]:
    told = Told(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(told.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}/hook?key=hunter2"
        serve = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serve.start()
        try:
            yield told
        finally:
            server.shutdown()
            serve.join()
