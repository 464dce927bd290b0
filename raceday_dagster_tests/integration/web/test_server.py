"""The web UI over HTTP: what the guard refuses is refused on the wire, and what it lets through works."""

from __future__ import annotations

import base64
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.commands import PROJECT, make_environment
from raceday_dagster_tests.integration.postgres_fixture import open_server_folder
from raceday_dagster_tests.integration.web.web_fixture import (
    ANSWER_S,
    LOCATION,
    Web,
    build_launch,
    run_code_server,
    run_webserver,
)

IDLE_JOB = """
import dagster as dg

@dg.op
def rest() -> None: ...

@dg.job
def idle() -> None:
    rest()

defs = dg.Definitions(jobs=[idle])
"""
EVIL = "http://evil.example"


@dataclass(frozen=True)
class Served:
    """Two servers of one instance, one of them read-only."""

    web: Web
    read_only: Web
    workspace: Path


@pytest.fixture(scope="module")
def served(embedded_postgres: EmbeddedPostgres) -> Iterator[Served]:
    """A real instance in PostgreSQL, whose queue no daemon empties: a launched run only waits."""
    url = embedded_postgres.create_database("web", owner="web", connection_limit=80)
    with open_server_folder() as folder, ExitStack() as stack:
        stack.callback(embedded_postgres.drop_database, "web")
        shutil.copy(PROJECT / "dagster.yaml", folder)
        (folder / "idle.py").write_text(IDLE_JOB, encoding="utf-8")
        environment = make_environment(DAGSTER_HOME=str(folder), DAGSTER_PG_URL=url)
        module = ("-f", str(folder / "idle.py"))
        workspace = stack.enter_context(run_code_server(module, environment, folder))
        web = stack.enter_context(run_webserver(workspace, environment, folder / "web.log"))
        read_only = stack.enter_context(
            run_webserver(
                workspace, environment, folder / "read-only.log", "--read-only", "--allow-host", "racing.example"
            )
        )
        # As a page that is still open when the server is told to end.
        stack.enter_context(open_websocket(read_only))
        yield Served(web, read_only, workspace)


@pytest.fixture
def web(served: Served) -> Iterator[Web]:
    """The server that may launch runs; a test that is refused leaves none behind."""
    before = served.web.read_runs()
    yield served.web
    assert served.web.read_runs() == before


@contextmanager
def open_websocket(web: Web, **headers: str) -> Iterator[str]:
    """A websocket after its opening handshake: the first line of the answer."""
    address = urlsplit(web.url)
    asked = {
        "Host": address.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "graphql-ws",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = ["GET /graphql HTTP/1.1", *(f"{name}: {value}" for name, value in asked.items()), "", ""]
    with socket.create_connection((address.hostname, address.port), timeout=ANSWER_S) as connection:
        connection.sendall("\r\n".join(lines).encode())
        with connection.makefile("rb") as answer:
            yield answer.readline().decode().strip()


def shake_hands(web: Web, **headers: str) -> str:
    with open_websocket(web, **headers) as answered:
        return answered


def test_the_ui_is_served_and_cannot_be_framed(web: Web) -> None:
    page = requests.get(f"{web.url}/locations/{LOCATION}/jobs/idle", timeout=ANSWER_S)
    assert page.status_code == 200
    assert "<html" in page.text
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "script-src" in page.headers["Content-Security-Policy"]
    assert requests.get(f"{web.url}/server_info", timeout=ANSWER_S).json()["dagster_webserver_version"]


def test_the_pages_of_the_races_are_behind_the_same_guard_and_say_what_they_lack(web: Web) -> None:
    page = requests.get(f"{web.url}/races", timeout=ANSWER_S)
    assert page.status_code == 503
    assert "DATABASE_URL is not set" in page.text
    assert page.headers["X-Frame-Options"] == "DENY"
    assert requests.get(f"{web.url}/races", headers={"Origin": EVIL}, timeout=ANSWER_S).status_code == 403
    assert requests.get(f"{web.url}/racesx", timeout=ANSWER_S).status_code == 200  # a page of Dagster's


def test_a_websocket_opens_for_the_ui_and_for_no_other_page(web: Web) -> None:
    assert shake_hands(web, Origin=web.url) == "HTTP/1.1 101 Switching Protocols"
    assert shake_hands(web, Origin=EVIL).startswith("HTTP/1.1 403 ")


def test_a_script_asks_by_get_and_launches_a_run_unless_the_server_is_read_only(served: Served) -> None:
    asked = requests.get(f"{served.web.url}/graphql", params={"query": "{ version }"}, timeout=ANSWER_S)
    assert asked.json()["data"] == served.web.ask("{ version }")
    launch = build_launch("idle", "a script")
    before = len(served.web.read_runs())
    refused = served.read_only.ask(**launch)["launchRun"]
    assert refused["__typename"] == "UnauthorizedError"
    assert len(served.web.read_runs()) == before
    assert served.web.ask(**launch)["launchRun"]["__typename"] == "LaunchRunSuccess"
    assert len(served.web.read_runs()) == before + 1


def test_a_host_that_was_allowed_is_served(served: Served) -> None:
    named = {"Host": "racing.example"}
    assert requests.get(served.read_only.url, headers=named, timeout=ANSWER_S).status_code == 200
    assert requests.get(served.web.url, headers=named, timeout=ANSWER_S).status_code == 403
