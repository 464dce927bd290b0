"""A day that stands still: the same answers again add nothing; and a batch survives the death of its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from threading import Thread

import psutil
import pytest

from raceday_dagster_tests.integration.race_day import RaceDay, open_race_day, read_log
from raceday_dagster_tests.waiting import wait_for


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, speed=0) as opened:
        yield opened


def test_a_repeated_batch_adds_nothing(day: RaceDay) -> None:
    races = day.race_ids[:5]
    first = day.poll(races)
    before = day.read_contents()
    again = day.poll(races)
    assert day.read_contents() == before
    assert all(before[table] for table in ("meetings", "races", "entrants", "money_flow_history", "odds_history"))
    first_rows = sum(row["money_flow_history_rows"] for row in day.read_polls(first.run_id).values())
    again_rows = [
        value for row in day.read_polls(again.run_id).values() for name, value in row.items() if name.endswith("_rows")
    ]
    assert first_rows == len(before["money_flow_history"])
    assert set(again_rows) == {0}
    assert {row["status"] for row in day.read_polls(again.run_id).values()} == {"success"}


def test_an_answer_that_is_older_than_what_is_stored_changes_nothing(day: RaceDay) -> None:
    race_id = day.race_ids[6]
    day.poll([race_id])
    before = day.read_contents()
    rule = day.simulator.add_fault(race_id, "old_answer", age_s=600)
    result = day.poll([race_id])
    assert day.simulator.fired(rule) == 1
    assert day.read_contents() == before
    assert day.read_polls(result.run_id)[race_id]["status"] == "skipped"


def test_a_batch_outlives_its_workers(day: RaceDay, capfd: pytest.CaptureFixture[str]) -> None:
    races = day.race_ids[10:15]
    rule = day.simulator.add_fault("/racing/events/", "hold")
    killed: list[int] = []

    def kill_the_workers_while_the_races_wait() -> None:
        wait_for(lambda: day.simulator.faults()[0]["waiting"] == 5, 15)
        assert wait_for(find_workers, 15)
        for pid in find_workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        day.simulator.release()

    killing = Thread(target=kill_the_workers_while_the_races_wait)
    killing.start()
    result = day.poll(races)
    killing.join()
    assert day.simulator.fired(rule) == 5
    assert killed
    assert {row["status"] for row in day.read_polls(result.run_id).values()} == {"success"}
    (summary,) = [line for line in read_log(capfd.readouterr().err) if line["event"] == "batch_complete"]
    assert summary["workers"]["restarts"] >= len(killed)


def find_workers() -> list[int]:
    """Processes of the transform: the children of our fork server."""
    servers = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
    return [worker.pid for server in servers for worker in server.children()]
