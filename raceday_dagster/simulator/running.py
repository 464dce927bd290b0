"""The simulator in a process of its own, started, steered and stopped from this one."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack
from urllib.parse import urlsplit

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 2.0
"""It has nothing to save, and who stops it may have ten seconds for everything."""
_CALL_TIMEOUT_S = 30.0


class SimulatorError(RuntimeError):
    """The simulator did not start, or refused what the control plane was asked."""


class RunningSimulator:
    """A handle on a running simulator, by its base URL. Every method is one call of the control plane."""

    def __init__(self, api_url: str, pid: int) -> None:
        self.api_url = api_url
        self.pid = pid
        self._address = urlsplit(api_url).netloc
        self.vision_url = f"http://{self._address}/vision/v1"

    def now(self) -> datetime:
        """The simulated instant."""
        return datetime.fromisoformat(self._call("GET", "/clock")["now"])

    def advance(self, seconds: float) -> datetime:
        """Move the clock; the instant it shows then."""
        return datetime.fromisoformat(self._call("PUT", "/clock", {"advance_s": seconds})["now"])

    def set_clock(self, now: datetime | None = None, speed: float | None = None) -> datetime:
        """Set the clock to an aware instant, change its speed, or both; the instant it shows then."""
        wish: dict[str, Any] = {} if now is None else {"now": now.isoformat()}
        if speed is not None:
            wish["speed"] = speed
        return datetime.fromisoformat(self._call("PUT", "/clock", wish)["now"])

    def add_fault(self, match: str, kind: str, *, times: int | None = None, **params: object) -> str:
        """Break requests whose path contains `match` (see `faults`); the id of the rule."""
        wish = {"match": match, "kind": kind, "times": times, **params}
        return str(self._call("POST", "/faults", wish)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The rules, each with how often it `fired` and how many requests are `waiting` at it."""
        rules: list[dict[str, Any]] = self._call("GET", "/faults")["faults"]
        return rules

    def fired(self, rule_id: str) -> int:
        """How many requests a rule has met. KeyError when there is no such rule."""
        return int({rule["id"]: rule["fired"] for rule in self.faults()}[rule_id])

    def clear_faults(self) -> None:
        """Forget all rules; held requests go on."""
        self._call("DELETE", "/faults")

    def release(self) -> int:
        """Let held requests go on; how many there were."""
        return int(self._call("POST", "/release")["released"])

    def requests(self) -> dict[str, Any]:
        """How many were asked in all and are open now, and the most events open at once."""
        return self._call("GET", "/requests")

    def clear_requests(self) -> None:
        """Start counting again."""
        self._call("DELETE", "/requests")

    def _call(self, method: str, path: str, wish: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = HTTPConnection(self._address, timeout=_CALL_TIMEOUT_S)
        try:
            connection.request(method, f"/_simulator{path}", None if wish is None else json.dumps(wish))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise SimulatorError(f"{method} {path}: {answer.get('error', response.status)}")
        return answer


class SimulatorOptions(TypedDict, total=False):
    """The arguments of `server.serve`."""

    port: int
    seed: int
    racing_day: date
    first_start: datetime
    now: datetime
    speed: float
    latency_ms: float
    meetings: int


@contextmanager
def running_simulator(**options: Unpack[SimulatorOptions]) -> Iterator[RunningSimulator]:
    """Run the simulator in a subprocess for the length of the block.

    It ends with the block, and by itself when this process dies. SimulatorError when it does not start.
    """
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [sys.executable, "-m", "raceday_dagster.simulator", "--stop-with-stdin", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            # Ctrl-C at the terminal is for whoever started this: it ends the child when it is done with it.
            start_new_session=True,
            # Python looks for a module where it is started first: the child runs this very package.
            cwd=Path(__file__).parents[2],
        ) as process,
    ):
        try:
            yield RunningSimulator(_read_announcement(process, complaints), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _read_announcement(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> str:
    """The base URL, which is the first line the process writes."""
    assert process.stdout is not None
    begun, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
    if not begun:
        raise SimulatorError(f"the simulator did not start within {_START_TIMEOUT_S:g} s")
    if url := process.stdout.readline().decode().strip():
        return url
    complaints.seek(0)
    last_words = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
    raise SimulatorError(f"the simulator did not start: {' '.join(last_words) or 'no reason given'}")
