"""What the service's own children and the sandbox below them do when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from queue import SimpleQueue

import psutil
import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.service.environment import keep_sandbox_running
from raceday_dagster.service.processes import ChildProcess
from raceday_dagster.simulator.running import RunningSimulator
from raceday_dagster_tests.waiting import wait_for

SOON_S = 30.0
FAMILY = """
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(left.pid, flush=True)
time.sleep(600)
"""
PARENT = """
import sys, time
from raceday_dagster.service.processes import ChildProcess
child = ChildProcess([sys.executable, "-c", sys.argv[1]], {}, lambda line: print(child.pid, line, end="", flush=True))
time.sleep(600)
"""


@pytest.fixture
def simulator() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the simulator."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_dies_with_the_process_that_started_it_but_its_own_child_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, FAMILY], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child_pid, grandchild_pid = map(int, parent.stdout.readline().split())
        try:
            assert is_alive(child_pid)
            parent.kill()
            assert wait_for(lambda: not is_alive(child_pid), SOON_S)
            assert is_alive(grandchild_pid)
        finally:
            os.kill(grandchild_pid, signal.SIGKILL)


def test_killing_a_child_kills_its_group_also_when_the_child_has_ended_already() -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    child = ChildProcess([sys.executable, "-S", "-c", FAMILY], {}, lines.put)
    left = int(lines.get(timeout=SOON_S))
    os.kill(child.pid, signal.SIGKILL)
    assert wait_for(child.has_ended, SOON_S)
    assert is_alive(left)
    child.kill()
    assert wait_for(lambda: not is_alive(left), SOON_S)
    assert child.poll() == -signal.SIGKILL


def test_a_server_that_was_killed_is_started_again(own_server: EmbeddedPostgres) -> None:
    said: list[str] = []
    keep_sandbox_running(own_server, None, said.append)
    assert said == []
    pid = own_server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not own_server.status().running, 10)

    keep_sandbox_running(own_server, None, said.append)

    assert own_server.status().running
    assert said == ["the embedded PostgreSQL has ended; starting it again"]


def test_a_simulator_that_was_killed_ends_the_service_in_one_line(
    own_server: EmbeddedPostgres, simulator: subprocess.Popen[bytes]
) -> None:
    handle = RunningSimulator("http://127.0.0.1:1", simulator.pid)
    keep_sandbox_running(own_server, handle, pytest.fail)
    simulator.kill()
    assert os.waitid(os.P_PID, simulator.pid, os.WEXITED | os.WNOWAIT) is not None

    with pytest.raises(ServiceError, match="the simulated API has ended"):
        keep_sandbox_running(own_server, handle, pytest.fail)
    assert simulator.wait() == -signal.SIGKILL, "whoever started it still learns how it ended"
