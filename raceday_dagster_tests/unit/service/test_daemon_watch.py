"""Whether the daemon works, asked of a database that may stand still."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from dagster._daemon.types import DaemonHeartbeat

from raceday_dagster.dagster_plugins.daemon import POLLING_DAEMON
from raceday_dagster.service import dagster_instance
from raceday_dagster.service.dagster_instance import HeartbeatWatch


class FakeInstance:
    """Answers at once while ``goes_on`` is set."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.beats = 0
        self.asked = 0
        self.answered = threading.Semaphore(0)

    def get_daemon_heartbeats(self) -> dict[str, DaemonHeartbeat]:
        self.asked += 1
        self.goes_on.wait()
        self.answered.release()
        return {POLLING_DAEMON: DaemonHeartbeat(float(self.beats), POLLING_DAEMON, "daemon", [])}


def build_watch(instance: FakeInstance) -> HeartbeatWatch:
    return HeartbeatWatch(cast("Any", instance))


def test_a_daemon_works_while_its_heartbeats_change() -> None:
    instance = FakeInstance()
    watch = build_watch(instance)
    assert watch.has_beaten() is False
    instance.beats += 1
    assert watch.has_beaten() is True
    assert watch.has_beaten() is False


def test_a_database_that_stands_still_is_asked_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = FakeInstance()
    watch = build_watch(instance)
    monkeypatch.setattr(dagster_instance, "ASK_WITHIN_S", 0.0)
    instance.goes_on.clear()
    assert [watch.has_beaten() for _ in range(5)] == [None] * 5
    assert instance.asked == 2, "the first was to know the heartbeat at the start"
    instance.goes_on.set()
    assert instance.answered.acquire(timeout=10)
    assert instance.answered.acquire(timeout=10)
