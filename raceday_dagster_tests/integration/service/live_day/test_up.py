"""``raceday up`` as an operator runs it: a minute and a half of a race day in which a process hangs, another is killed
and somebody starts a backfill in the UI, then what else it must survive, refuse and leave behind.

The tests run in order, and the last ones end the service.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from benchmarks.cadence import OVER, SLOT_S, Outage
from benchmarks.faults import KINDS
from benchmarks.live_day import LiveDay, find_processes, open_live_day
from benchmarks.promises import Fault, check_tables
from benchmarks.soak import Soaked, soak, wait_for_batches
from raceday_dagster.errors import DatabaseError, ServiceError
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.service.health import check_health
from raceday_dagster.service.parts import Web as WebOptions
from raceday_dagster.service.up import run_up
from raceday_dagster.service.wall_clock import describe_step
from raceday_dagster_tests.integration.clock_fixture import Clock, clock, clock_file, clock_variables
from raceday_dagster_tests.integration.commands import call_raceday, find_free_port
from raceday_dagster_tests.integration.race_day import IDENTITY
from raceday_dagster_tests.integration.service.live_day.conftest import LATENCY_MS
from raceday_dagster_tests.integration.service.live_day.web_fixture import Web
from raceday_dagster_tests.waiting import wait_for

__all__ = ["clock", "clock_file", "clock_variables"]

pytestmark = pytest.mark.slow
SPAN = timedelta(seconds=90)
ENDS_WITHIN_S = 20.0
"""Ten seconds, and as many for a busy machine; neither of what holds it up in its test would ever end."""
LONGEST_GAP_S = 35.0 + SLOT_S
"""As promised, and a slot for a busy machine."""
BACKFILLED_RACES = 3
SEED = 1
SHORT_FAULT_S = 2.0
SHORT_FAULTS = [
    "a run worker is killed",
    "every connection is ended",
    "the API answers 503",
    "the API sends garbage",
    "the code server stands still",
]
BACKFILL = """
mutation Backfill($partitions: [String!]) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "process_race_partition_set",
      repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "raceday_dagster"}
    },
    partitionNames: $partitions
  }) { __typename ... on LaunchBackfillSuccess { backfillId } }
}
"""
FOUND = """
query Found($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status partitionStatusCounts { runStatus count } }
  }
}
"""


@dataclass(frozen=True)
class Followed:
    """What following the day for ``SPAN`` came to."""

    soaked: Soaked
    backfill: Mapping[str, Any]
    """As the UI shows it at the end."""
    backfilled: Collection[str]
    """Races of it that the ledger has under a run outside the live lane."""


@pytest.fixture(scope="module")
def second(live_day: LiveDay, clock_variables: dict[str, str]) -> Iterator[LiveDay]:
    """The service that follows one that was killed; its clock can be set where there is a library for it."""
    assert live_day.process.poll() is not None
    with open_live_day(live_day.home, latency_ms=LATENCY_MS, **clock_variables) as second:
        yield second


@pytest.fixture(scope="module")
def followed(live_day: LiveDay) -> Followed:
    """A time in which the daemon hangs and later a run is killed, while a backfill goes on."""
    wait_for_batches(live_day)
    web = Web(f"http://127.0.0.1:{live_day.port}")
    race_ids = sorted({poll.race_id for poll in live_day.read_polls()})[:BACKFILLED_RACES]
    keys = [row["partition"] for row in live_day.ask("SELECT partition FROM dynamic_partitions", "DAGSTER_PG_URL")]
    chosen = [key for key in keys for race_id in race_ids if key.endswith(f" {race_id[:8]}")]
    began_at = datetime.now(UTC)
    launched = web.ask(BACKFILL, {"partitions": chosen})["launchPartitionBackfill"]
    soaked = soak(live_day, SPAN, kills=True)
    live = {batch.run_id for batch in live_day.read_batches()}
    by_hand = {poll.race_id for poll in soaked.polls if poll.run_id not in live and poll.polled_at > began_at}
    backfill = web.ask(FOUND, {"id": launched["backfillId"]})["partitionBackfillOrError"]
    return Followed(soaked, backfill, by_hand & set(race_ids))


@pytest.fixture(scope="module")
def soaked(followed: Followed) -> Soaked:
    """Its polls, judged."""
    return followed.soaked


def wait_for_line(day: LiveDay, text: str) -> str:
    """The last line of what the service has printed that holds a text."""

    def find() -> list[str]:
        return [line for line in day.log.read_text().splitlines() if text in line]

    assert wait_for(lambda: bool(find()) or day.process.poll() is not None), day.log.read_text()
    assert find(), day.log.read_text()
    return find()[-1]


def read_children(day: LiveDay) -> dict[str, int]:
    children: dict[str, int] = day.read_state()["children"]
    return children


def kill_and_await_the_next(day: LiveDay, part: str) -> None:
    before = day.kill(part)
    wait_for_line(day, f"{part} died with SIGKILL; starting it again")
    assert wait_for(lambda: read_children(day).get(part, before) != before)
    assert psutil.pid_exists(read_children(day)[part])


def hang_and_await_the_next(day: LiveDay, *parts: str) -> None:
    before = read_children(day)
    day.stop(*parts)
    for part in parts:
        wait_for_line(day, f"{part} has not answered for ")
        assert wait_for(lambda part=part: read_children(day).get(part, before[part]) != before[part])
        assert psutil.pid_exists(read_children(day)[part])


def find_worker(day: LiveDay, do: Callable[[psutil.Process], None]) -> psutil.Process:
    """Does something to the process of the next run that is seen under way."""

    def find() -> psutil.Process | None:
        for worker in day.find_run_workers():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                do(worker)
                return worker
        return None

    return wait_for(find)


def refuse_up(port: int, **environment: str) -> str:
    """Why a service is not started."""
    with pytest.raises(ServiceError) as refused:
        run_up(WebOptions(port=port), environment, lambda _line: None)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def check(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    """The lines of ``raceday health``."""
    monkeypatch.setenv("DAGSTER_PG_URL", "")  # which reading Dagster's instance sets
    return [str(line) for line in check_health(environment, datetime.now(UTC))]


# A minute and a half of a race day


def test_several_races_were_in_their_last_five_minutes_at_once(soaked: Soaked) -> None:
    assert soaked.verdict.most_live_at_once >= 2


def test_every_due_poll_happened_and_none_twice(soaked: Soaked) -> None:
    assert soaked.verdict.missed == []
    assert soaked.verdict.twice == []
    assert soaked.verdict.last_minutes_gaps_s


def test_a_daemon_that_hangs_is_replaced_and_no_live_race_waits_for_long(live_day: LiveDay, soaked: Soaked) -> None:
    hung = soaked.outages[0]
    assert "daemon has not answered for " in live_day.log.read_text()
    assert [batch for batch in soaked.batches if batch.due_at < hung.began_at]
    assert [batch for batch in soaked.batches if batch.created_at > hung.began_at]
    assert SLOT_S < max(soaked.verdict.outage_gaps_s) < LONGEST_GAP_S


def test_a_killed_run_leaves_no_half_race_and_the_next_poll_converges(soaked: Soaked) -> None:
    (killed,) = [batch for batch in soaked.batches if batch.status == "FAILURE"]
    done = {poll.race_id for poll in soaked.polls if poll.run_id == killed.run_id}
    later = {poll.race_id for poll in soaked.polls if poll.run_id != killed.run_id and poll.polled_at > killed.due_at}
    over = {race.race_id for race in soaked.races if race.status in OVER}
    lost = set(killed.race_ids) - done
    assert lost, "the run was killed after its work: the fault did not fire"
    assert soaked.half_races == []
    assert lost <= later | over


def test_nothing_but_the_killed_run_failed(soaked: Soaked) -> None:
    assert soaked.verdict.failed == []
    assert {batch.status for batch in soaked.batches} <= {"SUCCESS", "FAILURE", "STARTING", "STARTED"}


def test_a_backfill_of_partitions_goes_through_beside_the_live_batches(followed: Followed) -> None:
    counts = {entry["runStatus"]: entry["count"] for entry in followed.backfill["partitionStatusCounts"]}
    assert followed.backfill["status"] == "COMPLETED_SUCCESS"
    assert counts["SUCCESS"] == BACKFILLED_RACES
    assert len(followed.backfilled) == BACKFILLED_RACES


# What it says and refuses


@pytest.mark.usefixtures("followed")
def test_the_service_is_healthy_after_a_hung_daemon_and_a_killed_run(live_day: LiveDay) -> None:
    healthy = call_raceday(live_day.home, "health")
    assert healthy.exit_code == 0, healthy.output
    assert re.findall(r"^(?:ok|warning) +(\w+):", healthy.stdout, re.MULTILINE)[:7] == [
        *("service", "storage", "daemon", "sensor", "automation", "database", "day"),
    ]
    with urlopen(f"http://127.0.0.1:{live_day.port}/races/api/health", timeout=30) as answer:
        told = json.load(answer)
    assert (told["healthy"], told["is_listed"], told["races_without_answer"]) == (True, True, [])
    said = [line.split(maxsplit=1)[1].partition(":")[0] for line in healthy.stdout.splitlines()]
    assert [check["text"].partition(":")[0] for check in told["checks"]] == said
    assert '"event": "batch_complete"' in (live_day.home / "logs" / "run-server.log").read_text()


def test_the_service_says_where_the_ui_is_and_what_it_runs_on(live_day: LiveDay) -> None:
    line = wait_for_line(live_day, "raceday is up")
    assert f"http://127.0.0.1:{live_day.port}" in line
    assert "simulated racing day" in line
    with urlopen(f"http://127.0.0.1:{live_day.port}/server_info", timeout=30) as answer:
        assert answer.status == 200


def test_the_state_is_for_its_owner_only_and_each_part_has_a_session_of_its_own_and_two_arenas(
    live_day: LiveDay,
) -> None:
    assert (live_day.home / "service.json").stat().st_mode & 0o777 == 0o600
    children = read_children(live_day)
    assert set(children) == {"run-server", "code-server", "daemon", "web"}
    assert [os.getsid(pid) for pid in children.values()] == list(children.values())
    assert {psutil.Process(pid).environ().get("MALLOC_ARENA_MAX") for pid in children.values()} == {"2"}
    assert live_day.read_state()["pid"] == live_day.process.pid


def test_a_second_service_in_the_same_home_is_refused_and_told_of_the_first(live_day: LiveDay) -> None:
    # As it was typed, that is with the port that the first has taken.
    refused = refuse_up(live_day.port, RACEDAY_HOME=str(live_day.home))
    assert f"another `raceday up` (pid {live_day.process.pid}, " in refused
    assert live_day.read_state()["pid"] == live_day.process.pid


def test_a_second_service_on_the_same_database_is_refused_and_told_of_the_first(
    live_day: LiveDay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: value for name, value in live_day.read_state()["environment"].items() if name.endswith("_URL")}
    asked = {**given, **IDENTITY, "NZTAB_API_URL": "http://127.0.0.1:9/v1", "RACEDAY_HOME": str(tmp_path)}
    assert f"in use by raceday up, pid {live_day.process.pid} on " in refuse_up(find_free_port(), **asked)
    assert check(monkeypatch, **asked)[0].startswith("ok      service: raceday up, pid ")  # its database tells


def test_one_database_for_both_is_said_before_anything_is_started(tmp_path: Path) -> None:
    url = "postgresql://u:hunter2@127.0.0.1:1/d"
    environment = {**IDENTITY, "DATABASE_URL": url, "DAGSTER_PG_URL": url, "RACEDAY_HOME": str(tmp_path)}
    said: list[str] = []
    with pytest.raises(DatabaseError, match="port 1 cannot be reached"):
        run_up(WebOptions(port=find_free_port()), environment, said.append)
    (warning,) = said
    assert "WARNING: DAGSTER_PG_URL is DATABASE_URL" in warning
    assert "hunter2" not in warning


def test_a_port_that_is_taken_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refuse_up(port, RACEDAY_HOME=str(tmp_path))
    assert not (tmp_path / "postgres").exists()


# What it survives


def test_a_part_that_is_killed_is_started_again(live_day: LiveDay) -> None:
    kill_and_await_the_next(live_day, "web")


def test_servers_that_hang_are_replaced_a_run_that_then_dies_is_marked_and_polling_goes_on(live_day: LiveDay) -> None:
    worker = find_worker(live_day, lambda worker: worker.suspend())
    hang_and_await_the_next(live_day, "run-server", "code-server")
    assert worker.is_running(), "a run outlives its run server"
    worker.kill()
    run_id = wait_for_line(live_day, "lost its process with its run server").split(" run ")[1].split()[0]
    (lost,) = [batch for batch in live_day.read_batches() if batch.run_id == run_id]
    assert lost.status == "FAILURE"
    assert wait_for(
        lambda: any(
            batch.created_at > lost.created_at and batch.status == "SUCCESS" for batch in live_day.read_batches()
        )
    )


def test_the_service_outlives_its_database_also_when_a_part_dies_meanwhile(live_day: LiveDay) -> None:
    EmbeddedPostgres(live_day.home).stop()
    kill_and_await_the_next(live_day, "daemon")
    wait_for_line(live_day, "the embedded PostgreSQL has ended; starting it again")
    wait_for_line(live_day, "Dagster's database is back")
    assert "Traceback" not in live_day.log.read_text()


def test_what_is_stored_is_whole_after_random_faults_each_of_which_fired(live_day: LiveDay) -> None:
    """The short form of ``make faults``: seconds for each, and no rest in between."""
    wait_for_batches(live_day)
    began_at = datetime.now(UTC)
    faults: list[Fault] = []
    for name in random.Random(SEED).sample(SHORT_FAULTS, len(SHORT_FAULTS)):
        kind, fault_began_at = KINDS[name], datetime.now(UTC)
        proof = kind.inject(live_day, SHORT_FAULT_S)  # raises NotFiredError
        works_at = datetime.now(UTC) + timedelta(seconds=kind.recovers_within_s)
        faults.append(Fault(name, proof, Outage(fault_began_at, works_at), kind.may_fail))
    over_at = datetime.now(UTC)
    wait_for(lambda: any(poll.status == "success" and poll.polled_at > over_at for poll in live_day.read_polls()))
    promises = check_tables(live_day, faults, began_at, datetime.now(UTC))
    assert [promise for promise in promises if promise.broken] == [], faults


def test_a_killed_service_leaves_no_part(live_day: LiveDay, monkeypatch: pytest.MonkeyPatch) -> None:
    children = read_children(live_day)
    live_day.process.kill()
    live_day.process.wait()
    assert wait_for(lambda: not find_processes(live_day.home).keys() & set(children.values()))
    assert check(monkeypatch, RACEDAY_HOME=str(live_day.home))[0].startswith("FAIL    service: no `raceday up` runs")


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(hours=2)])
def test_polling_goes_on_at_the_next_slot_when_the_clock_runs_ahead_and_is_set_back(
    second: LiveDay, clock: Clock, ahead: timedelta
) -> None:
    def wait_for_poll_at(offset: timedelta) -> None:
        """One at the time that the service has: not of a moment before, when its clock was another."""
        set_at = time.monotonic()
        asked = "SELECT count(*) FROM race_polls WHERE abs(extract(epoch FROM polled_at - now()) - :ahead_s) < :since_s"

        def has_polled() -> bool:
            given = {"ahead_s": offset.total_seconds(), "since_s": time.monotonic() - set_at}
            return bool(second.ask(asked, **given)[0]["count"])

        assert wait_for(has_polled, 60), second.log.read_text()

    clock.set(ahead)
    wait_for_line(second, f"the clock {describe_step(ahead)}")
    wait_for_poll_at(ahead)
    clock.set(timedelta(0))
    wait_for_line(second, f"the clock {describe_step(-ahead)}")
    assert "polls" in wait_for_line(second, "lay in the future and count as of now")
    wait_for_poll_at(timedelta(0))


def test_a_service_ends_in_order_whatever_hangs(second: LiveDay, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an end must not wait for: a run that does not listen, and a database that does not answer.
    find_worker(second, lambda worker: worker.suspend())
    EmbeddedPostgres(second.home).stop()
    began = time.monotonic()
    second.process.send_signal(signal.SIGINT)  # a hasty Ctrl-C, then another
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(120) == 0, second.log.read_text()
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert second.log.read_text().endswith(" stopped\n")
    assert "Traceback" not in second.log.read_text()
    assert find_processes(second.home) == {}
    assert not (second.home / "service.json").exists()
    assert "start one" in check(monkeypatch, RACEDAY_HOME=str(second.home))[0]
