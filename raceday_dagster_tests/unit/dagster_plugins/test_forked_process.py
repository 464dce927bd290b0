"""How a process that the run server forked is watched, over a pair of sockets in place of the server's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raceday_dagster.dagster_plugins.forked_process import (
    SOCKET_VARIABLE,
    UNKNOWN,
    Ending,
    ForkedProcess,
    identify,
    is_forked_run,
)


@dataclass(frozen=True)
class Watched:
    """This process, as if a run server had forked it, and the server's end of the connection."""

    process: ForkedProcess
    server: socket.socket


@pytest.fixture
def watched() -> Iterator[Watched]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = ForkedProcess(theirs, identify(os.getpid()))
    with ours:
        yield Watched(process, ours)
    process.close()


def test_process_that_runs_has_no_exit_code(watched: Watched) -> None:
    for timeout_s in (0, 0.001):
        watched.process.join(timeout_s)
    assert watched.process.exitcode is None
    assert (watched.process.pid, watched.process.is_alive()) == (os.getpid(), True)


def test_process_that_ended_keeps_the_exit_code_that_the_server_tells(watched: Watched) -> None:
    watched.server.send(Ending(exit_code=-9).model_dump_json().encode())
    watched.process.join()
    watched.server.close()
    watched.process.join()
    assert watched.process.exitcode == -9


def test_process_whose_server_ended_first_has_an_exit_code_that_nobody_knows(watched: Watched) -> None:
    watched.server.close()
    assert watched.process.exitcode == UNKNOWN


@pytest.mark.parametrize("value", [None, "", "/nowhere/run-server.sock", __file__])
def test_process_without_a_run_server_was_not_forked_by_one(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(SOCKET_VARIABLE, value)
    assert not is_forked_run()


def test_identity_tells_a_process_from_its_parent() -> None:
    assert identify(os.getpid()) != identify(os.getppid())
    assert not Path(f"/proc/{2**22}").exists()
    assert identify(2**22).is_alive() is False
