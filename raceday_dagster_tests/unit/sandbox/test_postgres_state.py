"""What the embedded server decides from files, paths and processes, without any PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import make_url

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox import postgres, postmaster
from raceday_dagster.sandbox.binaries import read_data_major
from raceday_dagster.sandbox.placement import (
    Finished,
    Placement,
    ServerAccount,
    choose_account,
    make_private_folder,
    place,
)
from raceday_dagster.sandbox.postgres import build_url

MYSELF = ServerAccount(os.geteuid(), os.getegid())
SERVER_THAT_IGNORES_INTERRUPTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def run_as_postgres(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the server of a folder, ignores SIGINT, and ends with its standard input."""
    name = str(Path(sys.executable).with_name("postgres"))
    command = [name, "-c", SERVER_THAT_IGNORES_INTERRUPTS, "-D", str(data_dir)]
    process = subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def write_pid_file(data_dir: Path, pid: int, status: str = "ready") -> None:
    (data_dir / "postmaster.pid").write_text(f"{pid}\n{data_dir}\n1700000000\n5432\n/run/s\n\n 42 7\n{status}   \n")


def test_a_postgres_on_another_folder_and_an_unrelated_process_are_not_its_server(tmp_path: Path) -> None:
    with run_as_postgres(tmp_path / "other") as process:
        for pid in (process.pid, os.getpid()):
            write_pid_file(tmp_path, pid)
            assert postmaster.find_postmaster(tmp_path) is None


def test_a_living_postgres_on_this_folder_is_its_server_and_a_zombie_is_not(tmp_path: Path) -> None:
    with run_as_postgres(tmp_path) as process:
        write_pid_file(tmp_path, process.pid)
        assert postmaster.find_postmaster(tmp_path) == postmaster.Postmaster(process.pid, Path("/run/s"), "ready")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert postmaster.find_postmaster(tmp_path) is None


@pytest.mark.parametrize("content", ["", "\n", "garbage\n", "-7\n/data\n", "0\n"])
def test_a_damaged_pid_file_names_no_server_and_is_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / "postmaster.pid").write_text(content)
    assert postmaster.find_postmaster(tmp_path) is None
    postmaster.clear_stale_files(tmp_path, tmp_path / "socket")
    assert not (tmp_path / "postmaster.pid").exists()


def test_a_stale_pid_file_loses_its_pid_but_keeps_the_shared_memory_that_postgres_checks(tmp_path: Path) -> None:
    socket_dir = tmp_path / "socket"
    socket_dir.mkdir()
    (socket_dir / ".s.PGSQL.5432.lock").write_text("x")
    (socket_dir / "note").write_text("not the server's")
    write_pid_file(tmp_path, os.getpid())
    postmaster.clear_stale_files(tmp_path, socket_dir)
    lines = (tmp_path / "postmaster.pid").read_text().splitlines()
    assert lines[6] == " 42 7"
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)
    assert [path.name for path in socket_dir.iterdir()] == ["note"]


def test_a_server_that_ignores_the_fast_shutdown_is_ended_at_once(tmp_path: Path) -> None:
    with run_as_postgres(tmp_path) as process:
        write_pid_file(tmp_path, process.pid)
        postmaster.end_postmaster(tmp_path, within_s=0)
        assert process.wait(timeout=30) == -signal.SIGQUIT


def test_a_home_of_an_ordinary_user_keeps_everything_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 4242)
    assert place(tmp_path / "home").state_dir == tmp_path / "home" / "postgres"


@pytest.mark.parametrize("name", ['say "hi"', "$HOME", "`id`", "back\\slash", "two\nlines"])
def test_a_home_with_a_meaning_for_the_shell_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SandboxError, match="set RACEDAY_HOME to a plainer path"):
        place(tmp_path / name)


@pytest.mark.parametrize("state_dir", ["/srv/with space", "/srv/a,b", "/srv/50%", "/srv/Tāmaki", "/srv/" + "x" * 80])
def test_a_long_or_unusual_path_alone_moves_the_socket_to_a_short_folder_of_its_own(state_dir: str) -> None:
    assert Placement(Path("/srv/raceday"), MYSELF).socket_dir == Path("/srv/raceday/socket")
    socket_dir = Placement(Path(state_dir), MYSELF).socket_dir
    assert socket_dir.parent == Path(tempfile.gettempdir()).resolve()
    assert socket_dir == Placement(Path(state_dir), MYSELF).socket_dir
    assert socket_dir != Placement(Path(state_dir + "2"), MYSELF).socket_dir


def test_an_unusable_temp_directory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/temp dir")
    with pytest.raises(SandboxError, match="set TMPDIR"):
        _ = Placement(Path("/srv/with space"), MYSELF).socket_dir


def test_a_private_folder_is_closed_to_others_and_trusts_nothing_else_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    make_private_folder(tmp_path / "open", MYSELF)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SandboxError, match="it is a link"):
        make_private_folder(tmp_path / "link", MYSELF)
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxError, match="not a folder"):
        make_private_folder(tmp_path / "file", MYSELF)


def test_root_runs_the_server_as_postgres_else_as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = {
        "postgres": SimpleNamespace(pw_uid=101, pw_gid=102),
        "nobody": SimpleNamespace(pw_uid=65534, pw_gid=65533),
    }
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    assert choose_account(tmp_path / "data") == ServerAccount(101, 102)
    del accounts["postgres"]
    assert choose_account(tmp_path / "data") == ServerAccount(65534, 65533)
    del accounts["nobody"]
    with pytest.raises(SandboxError, match="run this as an ordinary user"):
        choose_account(tmp_path / "data")


def test_a_data_folder_of_somebody_else_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(SandboxError, match="belongs to another user"):
        choose_account(tmp_path)


def test_the_version_of_a_data_folder_is_read_without_a_server(tmp_path: Path) -> None:
    assert read_data_major(tmp_path) is None
    (tmp_path / "PG_VERSION").write_text("18\n")
    assert read_data_major(tmp_path) == 18
    (tmp_path / "PG_VERSION").write_text("")
    with pytest.raises(SandboxError, match="damaged"):
        read_data_major(tmp_path)


def test_a_url_names_driver_role_database_and_socket() -> None:
    url = build_url("raceday", "a b", Path("/tmp/x"))
    parsed = make_url(url)
    assert url == "postgresql+psycopg2://raceday@/a%20b?host=/tmp/x"
    assert (parsed.username, parsed.database, parsed.query["host"]) == ("raceday", "a b", "/tmp/x")


def test_a_command_reports_its_exit_code_and_last_words() -> None:
    ended = MYSELF.run(
        [sys.executable, "-c", "import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)"], timeout_s=60
    )
    assert ended.returncode == 3
    assert ended.output.split() in (["a", "b"], ["b", "a"])
    assert Finished(3, "").reason == "exit code 3"
    assert Finished(3, "one\ntwo\n\n").reason == "two"


def test_a_full_disk_is_named_whatever_comes_after_it(tmp_path: Path) -> None:
    full = "No space left on device"
    initdb = (
        f'running bootstrap script ... FATAL:  could not extend file "base/1/2691": {full}\ninitdb: removing data\n'
    )
    assert Finished(1, initdb).reason.endswith(full)
    copied = [("source", "destination", f"[Errno 28] {full}: 'destination'")]
    with pytest.raises(SandboxError, match=full), postgres._one_line_for_os_errors(tmp_path):
        raise shutil.Error(copied)


def test_a_command_without_end_is_cut_off() -> None:
    with pytest.raises(SandboxError, match=r"did not end within 0\.1 s"):
        MYSELF.run(["sleep", "600"], timeout_s=0.1)


def test_a_missing_program_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="No such file"):
        MYSELF.run([tmp_path / "nothing"], timeout_s=1)


def test_the_reasons_of_a_failed_start_are_the_fatal_lines_that_are_new(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    assert postgres._read_reasons(log, 0) == []
    log.write_text("2025-01-01 UTC [1] FATAL:  an old story\n")
    size = log.stat().st_size
    assert postgres._read_reasons(log, size) == []
    with log.open("a") as file:
        file.write("2025-01-01 UTC [2] FATAL:  could not map\n2025-01-01 UTC [2] LOG:  shut down\n")
        file.write("2025-01-01 UTC [3] PANIC:  no space\n")
    assert postgres._read_reasons(log, size) == ["could not map", "no space"]


def test_a_lock_that_stays_taken_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_LOCK_WAIT_S", 0)
    with (
        postgres._lock(tmp_path / "lock"),
        pytest.raises(SandboxError, match="another process has been starting or stopping"),
        postgres._lock(tmp_path / "lock"),
    ):
        pytest.fail("two held one lock")
    with postgres._lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
