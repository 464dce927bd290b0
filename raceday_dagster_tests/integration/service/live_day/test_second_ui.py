"""A second web UI on the live day, over HTTP: read-only, under a name of its own, without the database of the races.

The service is that of ``test_up``, which comes afterwards and breaks it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from benchmarks.live_day import LiveDay
from raceday_dagster_tests.integration.commands import make_environment
from raceday_dagster_tests.integration.service.live_day.web_fixture import (
    ANSWER_S,
    LAUNCHED_BY,
    LOCATION,
    Web,
    build_launch,
)
from raceday_dagster_tests.waiting import wait_for

pytestmark = pytest.mark.slow

NAME = "racing.example"
STOP_S = 20.0


@pytest.fixture(scope="module")
def web(live_day: LiveDay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The second UI, with a page still open when it is told to end."""
    shared = live_day.read_state()["environment"]
    environment = make_environment(**{name: shared[name] for name in ("DAGSTER_HOME", "DAGSTER_PG_URL")})
    workspace, log = live_day.home / "service" / "workspace.yaml", tmp_path_factory.mktemp("web") / "web.log"
    with (
        ExitStack() as pages,  # which are left when the server has ended
        run_webserver(workspace, environment, log, "--read-only", "--allow-host", NAME) as web,
    ):
        address = f"{web.url.replace('http', 'ws', 1)}/graphql"
        pages.enter_context(connect(address, subprotocols=[Subprotocol("graphql-ws")]))
        yield web


@contextmanager
def run_webserver(workspace: Path, environment: Mapping[str, str], log: Path, *arguments: str) -> Iterator[Web]:
    """Our web UI for ``workspace`` on any free port, once it has said where it is; it must end without a fuss."""
    command = ("raceday_dagster.web.server", "--workspace", str(workspace), "--port", "0", *arguments)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        said = re.compile(r"http://\S+")
        wait_for(lambda: said.search(log.read_text()) or process.poll() is not None, explain=log.read_text)
        found = said.search(log.read_text())
        assert found, log.read_text()
        yield Web(found[0])
        process.terminate()
        assert process.wait(STOP_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_ui_is_served_and_cannot_be_framed(web: Web) -> None:
    page = requests.get(f"{web.url}/locations/{LOCATION}/jobs/process_races", timeout=ANSWER_S)
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
    assert requests.get(f"{web.url}/racesx", timeout=ANSWER_S).status_code == 200  # a page of Dagster's


def test_a_script_asks_by_get_and_launches_nothing_on_a_server_that_is_read_only(web: Web) -> None:
    asked = requests.get(f"{web.url}/graphql", params={"query": "{ version }"}, timeout=ANSWER_S)
    assert asked.json()["data"] == web.ask("{ version }")
    refused = web.ask(**build_launch("meeting_status", "a script"))["launchRun"]
    assert refused["__typename"] == "UnauthorizedError"
    assert web.read_runs(tags=[{"key": LAUNCHED_BY, "value": "a script"}]) == []


def test_a_host_that_was_allowed_is_served_and_no_other(web: Web) -> None:
    for name, status in ((NAME, 200), ("evil.example", 403)):
        assert requests.get(web.url, headers={"Host": name}, timeout=ANSWER_S).status_code == status
