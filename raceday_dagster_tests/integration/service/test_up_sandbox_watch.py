"""What `raceday up` does when the ground it stands on gives way: the sandbox's own server and simulated API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.postmaster import wait_for
from raceday_dagster.service.surroundings import SandboxWatch
from raceday_dagster.simulator.running import RunningSimulator


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the simulator."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_server_that_was_killed_is_started_again(own_server: EmbeddedPostgres) -> None:
    said: list[str] = []
    watch = SandboxWatch(own_server, None)
    watch.look_after(said.append)
    assert said == []
    pid = own_server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not own_server.status().running, 10)

    watch.look_after(said.append)

    assert own_server.status().running
    assert said == ["the embedded PostgreSQL has ended; starting it again"]


def test_a_simulator_that_was_killed_ends_the_service_in_one_line(
    own_server: EmbeddedPostgres, child: subprocess.Popen[bytes]
) -> None:
    watch = SandboxWatch(own_server, RunningSimulator("http://127.0.0.1:1", child.pid))
    watch.look_after(pytest.fail)
    child.kill()
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) is not None

    with pytest.raises(ServiceError, match="the simulated API has ended"):
        watch.look_after(pytest.fail)
    assert child.wait() == -signal.SIGKILL, "whoever started it still learns how it ended"
