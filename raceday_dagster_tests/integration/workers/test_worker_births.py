"""Where workers come from and when they end, seen from programs of different kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 30.0
REPOSITORY = Path(__file__).parents[3]

PROGRAM = """
import sys
with open({diary!r}, "a") as diary:
    diary.write("main ran\\n")
from raceday_dagster.errors import TransformError
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import name_unwanted_modules
from raceday_dagster_tests.unit.transform.golden_race import open_event
with TransformWorkers(1, calculation=name_unwanted_modules) as workers:
    try:
        workers.transform(open_event())
    except TransformError as error:
        print(error)
"""

SOCKETS = """
import os
import socket
from raceday_dagster.errors import TransformError
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import name_open_sockets
from raceday_dagster_tests.unit.transform.golden_race import open_event
ours, theirs = socket.socketpair()
with TransformWorkers(1, calculation=name_open_sockets) as workers:
    try:
        workers.transform(open_event())
    except TransformError as error:
        held = str(error).partition("sockets:")[2].split()
        print([end for end in (ours, theirs) if str(os.fstat(end.fileno()).st_ino) in held], str(error)[:20])
"""

ORPHANS = """
import threading
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import loop_for_ever
from raceday_dagster_tests.unit.transform.golden_race import open_event
workers = TransformWorkers(2, calculation=loop_for_ever, task_timeout_s=600)
workers.start()
workers.transform(open_event())
threading.Thread(target=workers.transform, args=(open_event("loop"),), daemon=True).start()
while workers.metrics().idle + workers.metrics().busy < 2:
    threading.Event().wait(0.005)
print("ready", flush=True)
threading.Event().wait()
"""


def environment(*folders: Path) -> dict[str, str]:
    """Ours, in which these folders, the repository and what was there before can be imported from."""
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(part) for part in (*folders, REPOSITORY, before) if part)}


@pytest.mark.parametrize("kind", ["script", "module", "command"])
def test_a_worker_runs_nothing_of_the_program_that_started_it(tmp_path: Path, kind: str) -> None:
    diary = tmp_path / "diary"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(diary=str(diary)))
    arguments = {"script": [str(program)], "module": ["-m", "program"], "command": ["-c", program.read_text()]}[kind]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # No orchestrator, no database driver, no development dependency was imported in the worker.
    assert done.stdout.strip() == "LookupError: unwanted:"
    assert diary.read_text() == "main ran\n"


def test_a_worker_holds_none_of_its_parents_sockets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOCKETS],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    # A database connection among them would outlive a kill of the parent, with its locks.
    assert done.stdout.strip() == "[] LookupError: sockets", done.stderr


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        # Two workers, one of them in an endless loop, their fork server, and Python's resource tracker.
        assert len(family) == 4
        parent.kill()
    assert psutil.wait_procs(family, timeout=PATIENCE_S)[1] == []
