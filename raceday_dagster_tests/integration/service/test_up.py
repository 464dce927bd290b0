"""`raceday up` as an operator types it: it comes up, stays up, refuses a second one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.commands import PROJECT, SETTINGS, raceday, read_only_line
from raceday_dagster_tests.integration.postgres_fixture import open_server_folder

PATIENCE_S = 120
ENDS_WITHIN_S = 20.0
"""Ten seconds, and as many for a busy machine; neither of what holds it up in its test would ever end."""
PARTS = {"code-server", "daemon", "web"}


@dataclass
class Service:
    """A `raceday up` in a process of its own, and what it has said so far."""

    home: Path
    port: int
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for_line(self, text: str, times: int = 1) -> str:
        def found() -> bool:
            return sum(text in line for line in self.lines) >= times

        wait_until(lambda: found() or self.process.poll() is not None)
        assert found(), "".join(self.lines)
        return next(line for line in reversed(self.lines) if text in line)

    def read_state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads((self.home / "service.json").read_text())
        return state

    def read_children(self) -> dict[str, int]:
        children = self.read_state()["children"]
        assert isinstance(children, dict)
        return children

    def read_environment(self) -> dict[str, str]:
        environment = self.read_state()["environment"]
        assert isinstance(environment, dict)
        return environment

    def suspend_worker(self) -> psutil.Process | None:
        """Stops the process of a run in flight, if there is one."""
        code_server = psutil.Process(self.read_children()["code-server"])
        try:
            for worker in (child for fork_server in code_server.children() for child in fork_server.children()):
                worker.suspend()
                return worker
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
        return None

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


def wait_until(is_true: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_true() and time.monotonic() < give_up_at:
        time.sleep(0.05)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_service(home: Path) -> Service:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    port = find_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "raceday_dagster.cli", "up", "--port", str(port), "--feed-latency-ms", "20"],
        cwd=home,
        env={**environment, "PYTHONPATH": str(PROJECT), "RACEDAY_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Service(home, port, process)


def find_processes(home: Path) -> dict[int, str]:
    """Living processes that have this home in their environment: the service's, and the runs it started."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("RACEDAY_HOME") == str(home):
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue  # it ended meanwhile
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """One service for the module, up; the last tests end it."""
    with open_server_folder() as home:
        service = start_service(home)
        try:
            service.wait_for_line("raceday is up")
            yield service
        finally:
            if service.process.poll() is None:
                service.end(signal.SIGTERM)
            raceday(home, "db", "stop", RACEDAY_HOME=str(home))


def test_it_says_where_the_ui_is_and_what_it_runs_on(running: Service) -> None:
    line = running.wait_for_line("raceday is up")
    assert f"http://127.0.0.1:{running.port}" in line
    assert "simulated racing day" in line
    with urlopen(f"http://127.0.0.1:{running.port}/server_info", timeout=30) as answer:
        assert answer.status == 200


def test_its_state_is_for_its_owner_only_and_each_part_has_a_session_of_its_own(running: Service) -> None:
    assert (running.home / "service.json").stat().st_mode & 0o777 == 0o600
    children = running.read_children()
    assert set(children) == PARTS
    assert [os.getsid(pid) for pid in children.values()] == list(children.values())
    assert running.read_state()["pid"] == running.process.pid


def test_a_second_one_in_the_same_home_is_refused_in_one_line_that_names_the_first(running: Service) -> None:
    # As it was typed, that is with the port that the first has taken.
    ended = raceday(running.home, "up", "--port", str(running.port), RACEDAY_HOME=str(running.home))
    assert ended.returncode == 1
    assert f"another `raceday up` (pid {running.process.pid}, " in read_only_line(ended)
    assert running.read_state()["pid"] == running.process.pid


def test_a_second_one_on_the_same_database_is_refused_in_one_line_that_names_the_first(
    running: Service, tmp_path: Path
) -> None:
    given = {name: value for name, value in running.read_environment().items() if name.endswith("_URL")}
    identity = {"NZTAB_FROM_EMAIL": "a@b.nz", "NZTAB_PARTNER_NAME": "A", "NZTAB_PARTNER_ID": "A"}
    asked = {"NZTAB_API_URL": "http://127.0.0.1:9/v1", "RACEDAY_HOME": str(tmp_path), **given, **identity}
    ended = raceday(running.home, "up", "--port", str(find_free_port()), **asked)
    assert ended.returncode == 1
    assert f"in use by raceday up, pid {running.process.pid} on " in read_only_line(ended)
    healthy = raceday(running.home, "health", **asked)
    assert "ok      service: raceday up, pid " in healthy.stdout, "it is found through its database alone"


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = raceday(tmp_path, "up", "--port", str(port), RACEDAY_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in read_only_line(ended)
    assert not (tmp_path / "postgres").exists(), "nothing was started"


def test_a_part_that_is_killed_is_started_again(running: Service) -> None:
    before = running.read_children()["web"]
    os.kill(before, signal.SIGKILL)
    running.wait_for_line("web died with SIGKILL; starting it again")
    wait_until(lambda: running.read_children().get("web", before) != before)
    assert psutil.pid_exists(running.read_children()["web"])


def test_the_first_races_are_polled_without_a_hand_and_the_service_is_healthy(running: Service) -> None:
    log = running.home / "logs" / "code-server.log"
    wait_until(lambda: '"event": "batch_complete"' in log.read_text())
    assert '"event": "batch_complete"' in log.read_text()
    healthy = raceday(running.home, "health", RACEDAY_HOME=str(running.home))
    assert healthy.returncode == 0, healthy.stdout
    assert re.findall(r"^(?:ok|warning) +(\w+):", healthy.stdout, re.MULTILINE)[:7] == [
        *("service", "storage", "daemon", "sensor", "automation", "database", "day"),
    ]


def test_it_outlives_its_database_also_when_a_part_dies_meanwhile(running: Service) -> None:
    daemon = running.read_children()["daemon"]
    EmbeddedPostgres(running.home).stop()
    os.kill(daemon, signal.SIGKILL)
    running.wait_for_line("the embedded PostgreSQL has ended; starting it again")
    running.wait_for_line("daemon died with SIGKILL")
    wait_until(lambda: running.read_children().get("daemon", daemon) != daemon)
    running.wait_for_line("Dagster's database is back")
    assert psutil.pid_exists(running.read_children()["daemon"])
    assert not [line for line in running.lines if "Traceback" in line or "WARNING:root" in line]


def test_a_killed_service_leaves_no_part_and_the_next_one_ends_in_order_whatever_hangs(running: Service) -> None:
    children = running.read_children()
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(map(is_alive, children.values())))
    assert not any(map(is_alive, children.values()))

    unhealthy = raceday(running.home, "health", RACEDAY_HOME=str(running.home))
    assert unhealthy.returncode == 1
    assert "FAIL    service: no `raceday up` runs" in unhealthy.stdout

    second = start_service(running.home)
    try:
        second.wait_for_line("raceday is up")
        # What an end must not wait for: a run that does not listen, and a database that does not answer.
        wait_until(lambda: second.suspend_worker() is not None)
        EmbeddedPostgres(running.home).stop()
        began = time.monotonic()
        second.process.send_signal(signal.SIGINT)  # a hasty Ctrl-C, then another
        assert second.end(signal.SIGINT) == 0, "".join(second.lines)
        assert time.monotonic() - began < ENDS_WITHIN_S
    finally:
        second.process.kill()
    assert second.lines[-1].endswith("stopped\n")
    assert not [line for line in second.lines if "Traceback" in line or "WARNING:root" in line]
    assert find_processes(running.home) == {}
    assert not (running.home / "service.json").exists()
    forgotten = raceday(running.home, "health", RACEDAY_HOME=str(running.home))
    assert forgotten.returncode == 1
    assert "start one" in forgotten.stdout


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
