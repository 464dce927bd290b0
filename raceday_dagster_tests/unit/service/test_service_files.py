"""The folder of the code server's socket, wherever the home lies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from raceday_dagster.service.service_files import making_socket_folder


@pytest.mark.parametrize("name", ["Māhina", "a" * 100, "with space"])
def test_a_folder_in_the_temp_directory_is_gone_at_the_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temp := tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    (home := tmp_path / name).mkdir()
    with making_socket_folder(home) as folder:
        assert folder.parent == temp.resolve()
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "workspace.yaml").touch()
    assert list(temp.iterdir()) == list(home.iterdir()) == []


def test_a_folder_in_the_home_stays() -> None:
    with tempfile.TemporaryDirectory() as short, making_socket_folder(Path(short)) as folder:
        assert folder == Path(short) / "service"
