"""Real worker processes: what their deaths cost, and whom; where they come from, and when they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from raceday_dagster.dagster_plugins.forked_process import SOCKET_VARIABLE
from raceday_dagster.defs.resources import start_worker_process
from raceday_dagster.errors import TransformError
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.entry import Calculation, name_calculation
from raceday_dagster.workers.worker import start_by_fork_server
from raceday_dagster_tests.integration.postgres_fixture import open_server_folder
from raceday_dagster_tests.integration.workers import calculations
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event
from raceday_dagster_tests.unit.workers.worker_threads import WorkerTest, read_log, worker_test
from raceday_dagster_tests.waiting import PATIENCE_S, wait_for

__all__ = ["worker_test"]

REPOSITORY = Path(__file__).parents[3]

PROGRAM = """
import os
import socket
print("main ran")
from raceday_dagster.errors import TransformError
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import name_what_it_has
from raceday_dagster_tests.unit.transform.golden_race import open_event
pair = socket.socketpair()
print("ours", [os.fstat(end.fileno()).st_ino for end in pair])
with TransformWorkers(1, calculation=name_what_it_has) as workers:
    try:
        workers.transform(open_event())
    except TransformError as error:
        print("theirs", error)
"""

ORPHANS = """
import threading
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import never_end
from raceday_dagster_tests.unit.transform.golden_race import open_event
workers = TransformWorkers(2, calculation=never_end, task_timeout_s=600)
workers.start()
workers.transform(open_event())
threading.Thread(target=workers.transform, args=(open_event("loop"),), daemon=True).start()
while workers.metrics().idle + workers.metrics().busy < 2:
    threading.Event().wait(0.005)
print("ready", flush=True)
threading.Event().wait()
"""


def make_gate(folder: Path) -> Path:
    gate = folder / "gate"
    os.mkfifo(gate)
    return gate


def open_gate(gate: Path) -> None:
    """Lets the worker that waits at the pipe go on: the pipe opens when somebody reads at its other end."""
    with gate.open("wb"):
        pass


def build_environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, **variables}


@pytest.mark.parametrize(
    ("death", "code"),
    [
        (calculations.kill_itself_once, -signal.SIGKILL),
        (calculations.exit_once, 7),
        (calculations.segfault_once, -signal.SIGSEGV),
        (calculations.exit_quietly_once, 0),
    ],
)
def test_worker_that_dies_is_replaced_and_only_its_own_race_is_done_again(
    worker_test: WorkerTest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    death: Callable[..., RaceSnapshot],
    code: int,
) -> None:
    workers = worker_test.open(2, death, task_timeout_s=PATIENCE_S, start_process=start_by_fork_server)
    workers.start()
    gate, attempts = make_gate(tmp_path), tmp_path / "attempts"
    attempts.mkdir()
    other = worker_test.call(workers, "other", name=str(gate))
    wait_for(lambda: workers.metrics().busy == 1)
    victim = worker_test.call(workers, "victim", name=str(attempts))
    assert victim.result(PATIENCE_S).race_id == "victim"
    assert len(list(attempts.iterdir())) == 2
    open_gate(gate)
    assert other.result(PATIENCE_S).race_id == "other"
    wait_for(lambda: workers.metrics().idle == 2)
    assert workers.metrics().use.restarts == 1
    lines = read_log(capsys)
    (exit_line,) = [line for line in lines if line["event"] == "worker_exit"]
    assert (exit_line["race_id"], exit_line["code"]) == ("victim", code)
    assert [line["race_id"] for line in lines if line["event"] == "worker_task_requeued"] == ["victim"]
    assert sum(line["event"] == "worker_started" for line in lines) == 3


@pytest.mark.parametrize("race_id", ["loop", "stop"])
def test_race_that_takes_too_long_costs_its_worker_and_nobody_else(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str], race_id: str
) -> None:
    workers = worker_test.open(2, calculations.never_end, task_timeout_s=PATIENCE_S, start_process=start_by_fork_server)
    workers.start()
    wait_for(lambda: workers.metrics().idle == 2)
    endless = worker_test.call(workers, race_id, timeout_s=0.3)
    assert workers.transform(open_event("other")).race_id == "other"
    with pytest.raises(TransformError, match="no answer within") as failure:
        endless.result(PATIENCE_S)
    assert (failure.value.race_id, failure.value.retryable) == (race_id, True)
    wait_for(lambda: workers.metrics().idle == 2)
    assert workers.metrics().use.restarts == 1
    pids = [line["pid"] for line in read_log(capsys) if line["event"] == "worker_started"]
    wait_for(lambda: sum(psutil.pid_exists(pid) for pid in pids) == 2)


def test_interrupt_reaches_the_parent_only(
    worker_test: WorkerTest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workers = worker_test.open(1, calculations.wait_at_gate, start_process=start_by_fork_server)
    gate = make_gate(tmp_path)
    call = worker_test.call(workers, "race", name=str(gate))
    wait_for(lambda: workers.metrics().busy == 1)
    (started,) = [line for line in read_log(capsys) if line["event"] == "worker_started"]
    os.kill(started["pid"], signal.SIGINT)
    open_gate(gate)
    assert call.result(PATIENCE_S).race_id == "race"
    assert workers.metrics().use.restarts == 0


def test_stopping_leaves_no_worker(worker_test: WorkerTest, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    workers = worker_test.open(2, calculations.wait_at_gate, start_process=start_by_fork_server)
    workers.start()
    wait_for(lambda: workers.metrics().idle == 2)
    running = worker_test.call(workers, "running", name=str(make_gate(tmp_path)))
    wait_for(lambda: workers.metrics().busy == 1)
    workers.stop()
    with pytest.raises(TransformError, match="were stopped"):
        running.result(PATIENCE_S)
    pids = [line["pid"] for line in read_log(capsys) if line["event"] == "worker_started"]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def run_program(folder: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    """``PROGRAM`` to its end, with a temporary directory of its own."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=build_environment(TMPDIR=str(temporary)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("folder", ["usual", "long" * 25])
def test_worker_has_nothing_of_the_program_that_started_it(tmp_path: Path, folder: str) -> None:
    temporary = tmp_path / folder
    temporary.mkdir()
    done = run_program(tmp_path, temporary)
    main, ours, theirs = done.stdout.splitlines()
    assert main == "main ran"
    # No orchestrator, no database driver, no development dependency was imported in the worker.
    assert theirs.startswith("theirs LookupError: modules [] sockets ["), done.stderr
    # A database connection among the sockets would outlive a kill of the parent, with its locks.
    assert not set(re.findall(r"\d+", ours)) & set(re.findall(r"\d+", theirs))
    assert list(temporary.iterdir()) == []


def test_workers_end_when_their_parent_is_killed_and_the_next_process_removes_its_folder(tmp_path: Path) -> None:
    with open_server_folder() as temporary:
        with subprocess.Popen(
            [sys.executable, "-c", ORPHANS],
            env=build_environment(TMPDIR=str(temporary)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            family = psutil.Process(parent.pid).children(recursive=True)
            # Two workers, one of them in an endless loop, the fork server, and Python's resource tracker.
            assert len(family) == 4
            run_program(tmp_path, temporary)
            (in_use,) = temporary.iterdir()
            parent.kill()
        assert psutil.wait_procs(family, timeout=PATIENCE_S)[1] == []
        assert list(temporary.iterdir()) == [in_use]
        run_program(tmp_path, temporary)
        assert list(temporary.iterdir()) == []


class OtherProcess:
    """A worker that no fork server started: a new interpreter, which was given a descriptor and a name."""

    def __init__(self, pipe: Connection, calculation: Calculation | None) -> None:
        program = "import sys; from raceday_dagster.workers.entry import serve_descriptor as serve; "
        program += f"sys.exit(serve({pipe.fileno()}, {name_calculation(calculation)!r}))"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], env=build_environment(), pass_fds=[pipe.fileno()]
        )
        self.pid = self._process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        pass


def test_worker_from_elsewhere_works_and_ends_with_its_pipe_also_in_an_endless_calculation(
    worker_test: WorkerTest,
) -> None:
    processes: list[OtherProcess] = []

    def start(pipe: Connection, calculation: Calculation | None) -> OtherProcess:
        processes.append(OtherProcess(pipe, calculation))
        return processes[-1]

    workers = worker_test.open(1, calculations.never_end, start_process=start)
    assert workers.transform(golden_event()) == transform_race(golden_event())
    endless = worker_test.call(workers, "loop")
    wait_for(lambda: workers.metrics().busy == 1)
    workers.stop()
    with pytest.raises(TransformError, match="were stopped"):
        endless.result(PATIENCE_S)
    # It ended by itself, which is an exit code of 0: nobody killed it.
    assert [process.exitcode for process in processes] == [0]


def test_worker_of_a_run_whose_server_is_gone_comes_from_a_fork_server(
    worker_test: WorkerTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "gone"))
    workers = worker_test.open(1, calculations.never_end, start_process=start_worker_process)
    assert workers.transform(golden_event()) == transform_race(golden_event())
    assert workers.metrics().use.restarts == 0
