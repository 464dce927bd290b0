"""The folder of the code server's socket, wherever the home lies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raceday_dagster.service.service_files import making_socket_folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


@pytest.mark.parametrize("name", ["Māhina", "a" * 100, "with space"])
def test_a_folder_in_the_temp_directory_is_gone_at_the_end(
    name: str, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    (home := tmp_path / name).mkdir()
    with making_socket_folder(home) as folder:
        assert folder.parent == short
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "workspace.yaml").touch()
    assert list(short.iterdir()) == list(home.iterdir()) == []


def test_a_folder_in_the_home_stays(short: Path) -> None:
    with making_socket_folder(short) as folder:
        assert folder == short / "service"
