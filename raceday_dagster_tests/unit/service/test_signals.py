"""Signals become requests to stop, whatever was set for them; and the small decisions before the first start."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raceday_dagster.errors import RacedayError
from raceday_dagster.sandbox.sandbox import IDENTITY
from raceday_dagster.service.environment import open_environment
from raceday_dagster.service.parts import Web, check_address
from raceday_dagster.service.service_files import (
    ServiceState,
    read_state,
    remove_state,
    write_state,
)
from raceday_dagster.service.supervisor import StopRequests
from raceday_dagster.service.up import taking_stops

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_ends_a_program_is_a_request_as_often_as_it_comes(number: signal.Signals) -> None:
    requests: StopRequests = StopRequests()
    before = signal.getsignal(number)
    with taking_stops(requests):
        for _time in range(2):  # two that wait to be delivered would be one
            os.kill(os.getpid(), number)
            assert requests.get(timeout=5) == number
    assert signal.getsignal(number) is before


def test_a_hangup_that_is_ignored_stays_so_and_other_signals_that_are_do_not() -> None:
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        with taking_stops(StopRequests()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_host_that_others_reach_needs_the_flag() -> None:
    with pytest.raises(RacedayError, match="--expose"):
        check_address(Web(host="0.0.0.0"))


def test_the_ui_is_found_on_this_machine_whatever_it_listens_on() -> None:
    assert Web(host="0.0.0.0", expose=True).url == "http://127.0.0.1:3000"
    assert Web(host="::1").url == "http://[::1]:3000"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DATABASE_URL": "postgresql://u:hunter2@h/d"}, "DAGSTER_PG_URL is not"),
        ({"DAGSTER_PG_URL": "postgresql://u:hunter2@h/d"}, "DATABASE_URL is not"),
        ({"DATABASE_URL": "postgresql://h/d", "DAGSTER_PG_URL": "postgresql://h/e"}, "NZTAB_FROM_EMAIL is not set"),
        ({"NZTAB_API_URL": "http://127.0.0.1:9"}, "NZTAB_FROM_EMAIL is not set"),
    ],
)
def test_what_is_missing_is_said_in_one_line_before_anything_starts(environment: dict[str, str], said: str) -> None:
    with pytest.raises(RacedayError) as refused, open_environment(environment, NOW):
        pytest.fail("it started")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_simulated_latency_is_refused_where_nothing_is_simulated() -> None:
    environment = {"NZTAB_API_URL": "http://127.0.0.1:9", **IDENTITY}
    with pytest.raises(RacedayError, match="--feed-latency-ms"), open_environment(environment, NOW, feed_latency_ms=9):
        pytest.fail("it started")


def test_the_state_is_private_and_hides_its_environment(tmp_path: Path) -> None:
    state = ServiceState(7, "http://127.0.0.1:3000", NOW.isoformat(), {"DATABASE_URL": "hunter2"}, {"web": 8})
    write_state(tmp_path, state)
    assert (tmp_path / "service.json").stat().st_mode & 0o777 == 0o600
    assert read_state(tmp_path) == state
    assert "hunter2" not in repr(state)
    (tmp_path / "service.json").write_text("{}")
    assert read_state(tmp_path) is None
    (tmp_path / "service.json.4711").write_text("{}")  # of a service that was killed while it wrote
    remove_state(tmp_path)
    assert list(tmp_path.iterdir()) == []
