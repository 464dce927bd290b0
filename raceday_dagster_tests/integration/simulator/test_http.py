"""The simulator over HTTP, in a process of its own: the endpoints, every fault, the control plane, the end of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from raceday_dagster.simulator.day import RaceDay
from raceday_dagster.simulator.running import RunningSimulator, SimulatorError, running_simulator
from raceday_dagster_tests.waiting import wait_for

WINTER = date(2025, 7, 17)
FIRST = datetime(2025, 7, 17, 2, 0, tzinfo=UTC)
NOW = FIRST - timedelta(minutes=5)
DAY = RaceDay(1, WINTER, FIRST)
RACE = DAY.races[0]
EVENT = f"/racing/events/{RACE.race_id}"
FLAGS = {"with_money_tracker": "true"}
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def started() -> Iterator[RunningSimulator]:
    with running_simulator(seed=1, racing_day=WINTER, first_start=FIRST, now=NOW, speed=0) as simulator:
        yield simulator


@pytest.fixture
def simulator(started: RunningSimulator) -> RunningSimulator:
    started.clear_faults()
    started.clear_requests()
    started.set_clock(now=NOW, speed=0)
    return started


def ask(simulator: RunningSimulator, path: str = EVENT, **options: Any) -> requests.Response:
    options.setdefault("params", FLAGS)
    return requests.get(simulator.api_url + path, timeout=10, allow_redirects=False, **options)


def test_the_meetings_of_the_day_are_paged(simulator: RunningSimulator) -> None:
    span = {"date_from": "2025-07-17", "date_to": "2025-07-17"}
    pages = [
        ask(simulator, "/racing/meetings", params={**span, "limit": 10, "offset": offset}).json()["data"]["meetings"]
        for offset in (0, 10)
    ]
    assert [meeting["meeting"] for page in pages for meeting in page] == [m.meeting_id for m in DAY.meetings]


def test_an_event_is_found_by_its_id_and_nothing_else_is(simulator: RunningSimulator) -> None:
    assert ask(simulator).json()["data"]["race"]["event_id"] == RACE.race_id
    for path in ("/racing/events/unknown", "/racing/meetings/unknown", "/elsewhere"):
        response = ask(simulator, path)
        assert response.status_code == 404
        assert response.json()["header"]["error_code"] == "404"


@pytest.mark.parametrize(
    "params", [{"date_from": "2025-07-17T00:00:00Z"}, {"date_from": "20250717"}, {"limit": "many"}], ids=str
)
def test_a_parameter_that_makes_no_sense_is_refused(simulator: RunningSimulator, params: dict[str, str]) -> None:
    assert ask(simulator, "/racing/meetings", params=params).status_code == 400


def test_answers_are_compressed_when_asked(simulator: RunningSimulator) -> None:
    plain, packed = (ask(simulator, headers={"Accept-Encoding": coding}) for coding in ("identity", "gzip"))
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.json() == packed.json()


def test_the_clock_moves_a_race_through_its_life(simulator: RunningSimulator) -> None:
    statuses = [ask(simulator).json()["data"]["race"]["status"]]
    for seconds in (300 + 165, 240, 600):
        simulator.advance(seconds)
        statuses.append(ask(simulator).json()["data"]["race"]["status"])
    assert statuses == ["Open", "Closed", "Interim", "Final"]
    assert simulator.now() == NOW + timedelta(seconds=300 + 165 + 240 + 600)


BROKEN_ANSWERS: dict[str, Any] = {
    "latency": lambda response: response.json()["data"]["race"]["status"] == "Open",
    "status": lambda response: response.status_code == 503 and "retry-after" not in response.headers,
    "html": lambda response: response.status_code == 200 and response.headers["content-type"].startswith("text/html"),
    "garbage": lambda response: response.content == b'{"header": {"title": "Event',
    "old_answer": lambda response: response.json()["header"]["generated_time"].startswith("2025-07-17T00:55:00"),
}


@pytest.mark.parametrize("kind", BROKEN_ANSWERS)
def test_a_fault_breaks_as_many_answers_as_it_is_to_and_leaves_the_next(simulator: RunningSimulator, kind: str) -> None:
    params = {"ms": 5} if kind == "latency" else {}
    rule = simulator.add_fault(RACE.race_id, kind, times=2, **params)
    other = ask(simulator, f"/racing/events/{DAY.races[1].race_id}")
    assert other.status_code == 200
    assert simulator.fired(rule) == 0
    assert all(BROKEN_ANSWERS[kind](ask(simulator)) for _ in range(2))
    assert simulator.fired(rule) == 2
    assert ask(simulator).json()["data"]["race"]["status"] == "Open"


def test_a_status_can_say_when_to_come_back(simulator: RunningSimulator) -> None:
    simulator.add_fault(RACE.race_id, "status", code=429, retry_after="7")
    response = ask(simulator)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


def test_what_makes_no_sense_is_refused(simulator: RunningSimulator) -> None:
    with pytest.raises(SimulatorError, match="unknown kind"):
        simulator.add_fault(RACE.race_id, "nonsense")
    with pytest.raises(SimulatorError, match="speed"):
        simulator.set_clock(speed=-1)


def test_five_held_requests_gather_and_are_released_together(simulator: RunningSimulator) -> None:
    simulator.add_fault("/racing/events/", "hold")
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(ask, simulator, f"/racing/events/{race.race_id}") for race in DAY.races[:5]]
        wait_for(lambda: sum(rule["waiting"] for rule in simulator.faults()) == 5)
        assert simulator.requests()["events_in_flight_peak"] == 5
        assert simulator.release() == 5
        assert [answer.result().status_code for answer in answers] == [200] * 5
    seen = simulator.requests()
    assert (seen["in_flight"], seen["total"]) == (0, 5)


def test_the_latency_of_events_holds_up_no_other_answer_and_no_end_and_a_signal_frees_the_port() -> None:
    with running_simulator(racing_day=WINTER, speed=0, latency_ms=60_000) as simulator:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, simulator)
            assert ask(simulator, "/racing/meetings").status_code == 200
            assert wait_for(lambda: simulator.requests()["events_in_flight_peak"] == 1)
            end(simulator, signal.SIGTERM)
        port = int(simulator.api_url.split(":")[2].split("/")[0])
        with running_simulator(port=port, racing_day=WINTER) as successor:
            assert successor.api_url == simulator.api_url
            end(successor, signal.SIGINT)


def end(simulator: RunningSimulator, number: signal.Signals) -> None:
    process = psutil.Process(simulator.pid)
    process.send_signal(number)
    assert process.wait(timeout=PATIENCE_S) in (0, None)


def test_the_simulator_ends_by_itself_when_whoever_started_it_is_gone() -> None:
    command = [sys.executable, "-m", "raceday_dagster.simulator", "--stop-with-stdin"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_a_port_in_use_is_said_in_one_line(simulator: RunningSimulator) -> None:
    port = int(simulator.api_url.split(":")[2].split("/")[0])
    with pytest.raises(SimulatorError, match="Address already in use"), running_simulator(port=port):
        pass
