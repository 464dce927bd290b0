"""What every test session has: the order of its files, and unit tests that cannot reach the network or a database.

Only the tiers belong here; fixtures live beside the tests that use them.
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import psycopg2
import pytest

UNIT_TESTS = Path(__file__).parent / "unit"
LIVE_DAY = "/service/live_day/"
LONGEST_SLEEP_S = 0.05


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: of the workers that share the files, none waits for the last long one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker of pytest-xdist whole files, whose servers their tests share, and the live day's all together."""
    from xdist.scheduler import LoadFileScheduling

    class FileScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return LIVE_DAY if LIVE_DAY in nodeid else super()._split_scope(nodeid)

    return FileScheduling(config, log)


@pytest.fixture(autouse=True)
def _unit_tests_stay_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the unit folder, fail whatever opens a socket or a database connection, or sleeps.

    A socket made from a descriptor passes: that is how both ends of a socketpair arrive, and event loops need one.
    """
    if not request.path.is_relative_to(UNIT_TESTS):
        return
    make_socket = socket.socket.__init__
    sleep = time.sleep

    def make_socket_of_a_pair(self: socket.socket, *args: Any, **kwargs: Any) -> None:
        descriptor = args[3] if len(args) > 3 else kwargs.get("fileno")
        if descriptor is None:
            _refuse("opened a socket")
        make_socket(self, *args, **kwargs)

    def sleep_a_moment(seconds: float) -> None:
        # A library's background loop may pause: that does not hold the test up.
        if seconds > LONGEST_SLEEP_S and threading.current_thread() is threading.main_thread():
            _refuse(f"slept {seconds:g} s")
        sleep(seconds)

    def refuse_connection(*args: Any, **kwargs: Any) -> NoReturn:
        _refuse("connected to a database")

    monkeypatch.setattr(socket.socket, "__init__", make_socket_of_a_pair)
    monkeypatch.setattr(time, "sleep", sleep_a_moment)
    monkeypatch.setattr(psycopg2, "connect", refuse_connection)


def _refuse(deed: str) -> NoReturn:
    # Not an Exception: code under test that expects failures must not swallow it.
    pytest.fail(f"a unit test {deed}: move it to raceday_dagster_tests/integration, or pass a fake")
