"""Commands as a person types them, with none of the project's settings exported: in a fresh interpreter, or in this."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

import raceday_dagster
from raceday_dagster.cli import main
from raceday_dagster.settings import Settings

PROJECT = Path(raceday_dagster.__file__).parents[1]
SETTINGS = frozenset({"DAGSTER_HOME"} | {name.upper() for name in Settings.model_fields})
# Dagster warns that its own command is superseded; users see that, and it is not our line.
JOB = ("-W", "ignore", "-m", "dagster", "job", "execute", "-m", "raceday_dagster.definitions", "-j", "process_races")
_PORTS_OF_A_WORKER = 500
_LOWEST_PORT = 20_000


def make_environment(**exported: str) -> dict[str, str]:
    """The environment of the tests without any setting of the project but those ``exported``."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    paths = [str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **exported}


def type_command(folder: Path, *command: str, **exported: str) -> subprocess.CompletedProcess[str]:
    """Python with arguments, in a folder, to its end."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=make_environment(**exported),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def raceday(folder: Path, *arguments: str, **exported: str) -> subprocess.CompletedProcess[str]:
    """``raceday`` with arguments, in a folder, to its end."""
    return type_command(folder, "-m", "raceday_dagster.cli", *arguments, **exported)


def call_raceday(home: Path, *arguments: str, **exported: str) -> Result:
    """What ``raceday`` with ``arguments`` answers in this process, with its home and ``exported`` as the settings."""
    environment = {**dict.fromkeys(SETTINGS), "RACEDAY_HOME": str(home), **exported}
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return CliRunner().invoke(main, arguments, env=environment)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_only_line(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command printed on standard error."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def find_free_port() -> int:
    """A port of 127.0.0.1 that no other worker of this session and no client's connection is given meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lowest = _LOWEST_PORT + worker * _PORTS_OF_A_WORKER
    for port in range(lowest, lowest + _PORTS_OF_A_WORKER):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {lowest} on")
