"""The server that workers come from, begun as a fork of a program that is in the middle of something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 60.0
REPOSITORY = Path(__file__).parents[3]

BEGINNING = """
import os
import signal
import sys
import threading
from raceday_dagster.workers import nursery
from raceday_dagster.workers.pool import TransformWorkers
from raceday_dagster_tests.integration.workers.calculations import flush_output
from raceday_dagster_tests.unit.transform.golden_race import golden_event
def work(calculation=None):
    with TransformWorkers(1, calculation=calculation) as workers:
        workers.transform(golden_event(), timeout_s=40)
def forked():
    return nursery._SERVER._forked_pid is not None
"""

WHILE_A_THREAD_IMPORTS = """
from importlib.machinery import ModuleSpec
importing = threading.Event()
class EndlessModule:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == nursery.PRELOAD[0] else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        importing.set()
        threading.Event().wait()
sys.meta_path.insert(0, EndlessModule())
threading.Thread(target=__import__, args=nursery.PRELOAD, daemon=True).start()
importing.wait()
work()
print(forked())
"""

WHILE_A_THREAD_IDLES = """
threading.Thread(target=threading.Event().wait, daemon=True).start()
work()
print(forked())
"""

WITH_A_SERVER_THAT_HANGS = """
nursery.FORK_TIMEOUT_S = 0.5
serve = nursery.forkserver.main
nursery.forkserver.main = lambda *arguments: signal.pause()
work()
first = nursery._SERVER._forked_pid
try:
    os.kill(first, 0)
except ProcessLookupError:
    print("gone", nursery._SERVER._forkserver_pid not in (None, first))
"""

WITH_A_SERVER_THAT_FAILS = """
def fail(*arguments):
    raise LookupError("the server's own")
nursery.forkserver.main = fail
work()
print(forked())
"""

WITHOUT_FORKS = """
def refuse():
    refused.append(1)
    raise BlockingIOError("no more processes")
refused = []
os.fork = refuse
held = set(os.listdir("/dev/fd"))
nursery.build_context()
assert refused and set(os.listdir("/dev/fd")) == held
work()
print(forked())
"""

WITH_UNFLUSHED_OUTPUT = """
print("said once")
sys.stderr.reconfigure(line_buffering=False)
sys.stderr.write("complained once")
work(flush_output)
print(forked())
"""

IN_A_FORK_OF_A_PROGRAM_THAT_HAS_A_SERVER = """
work()
assert forked()
sys.stdout.flush()
if (child := os.fork()) == 0:
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)
print(os.waitpid(child, 0)[1])
work()
"""

INTERRUPTED = """
def fork():
    pid = really_fork()
    # What Ctrl-C at a terminal does: everybody gets it, at the worst moment.
    os.kill(os.getpid(), signal.SIGINT)
    return pid
really_fork, os.fork = os.fork, fork
try:
    nursery.build_context()
except KeyboardInterrupt:
    print("interrupted", flush=True)
work()
print(forked())
"""

TERMINATED = """
signal.signal(signal.SIGTERM, lambda *_: print("the parent's handler", flush=True))
nursery.build_context()
os.kill(nursery._SERVER._forkserver_pid, signal.SIGTERM)
print(os.waitid(os.P_PID, nursery._SERVER._forkserver_pid, os.WEXITED | os.WNOWAIT).si_status)
work()
"""


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    path = os.pathsep.join(part for part in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if part)
    return subprocess.run(
        [sys.executable, "-c", BEGINNING + program],
        env={**inherited, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        pytest.param(WHILE_A_THREAD_IMPORTS, "False\n", id="is-not-forked-while-a-thread-imports"),
        pytest.param(WHILE_A_THREAD_IDLES, "True\n", id="is-forked-beside-a-thread-that-idles"),
        pytest.param(WITH_A_SERVER_THAT_HANGS, "gone True\n", id="is-replaced-when-it-hangs"),
        pytest.param(WITH_A_SERVER_THAT_FAILS, "True\n", id="is-replaced-when-it-fails"),
        pytest.param(WITHOUT_FORKS, "False\n", id="is-spawned-where-no-fork-is-possible"),
        pytest.param(WITH_UNFLUSHED_OUTPUT, "said once\nTrue\n", id="repeats-nothing-its-parent-said"),
        pytest.param(IN_A_FORK_OF_A_PROGRAM_THAT_HAS_A_SERVER, "0\n", id="is-not-shared-with-a-fork-of-the-program"),
        pytest.param(INTERRUPTED, "interrupted\nTrue\n", id="leaves-an-interrupt-to-its-parent"),
    ],
)
def test_the_server_of_workers(program: str, printed: str) -> None:
    done = run(program)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr
    assert done.stderr.count("complained once") == (program == WITH_UNFLUSHED_OUTPUT)
    assert ("LookupError: the server's own" in done.stderr) == (program == WITH_A_SERVER_THAT_FAILS)


def test_the_server_ends_by_a_signal_that_its_parent_handles() -> None:
    done = run(TERMINATED)
    assert (done.returncode, done.stdout) == (0, "15\n"), done.stderr


def test_a_long_path_to_temporary_files_keeps_nobody_from_working(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    done = run("work()\nprint(forked())", TMPDIR=str(folder))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
