"""What ``raceday bench`` refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raceday_dagster import cli
from raceday_dagster.errors import BenchError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text("[]", encoding="utf-8")
    Path("wrong.json").write_text('{"races": []}', encoding="utf-8")


def type_bench(*typed: str) -> Result:
    return CliRunner().invoke(cli.bench, typed)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ((), "--count"),
        (("--count", "1", "--race", "a"), "--count"),
        (("--count", "0"), "0 is not in the range"),
        (("--count", "1", "--race-target-ms", "0"), "0.0 is not in the range"),
        (("--count", "1", "--formats", "xml"), "--formats takes json,csv"),
        (("--count", "1", "--scenario", "a/b"), "--scenario"),
        (("--race", ""), "a race id is empty"),
        (("--race-file", "empty.json"), "no race id in empty.json"),
        (("--race-file", "missing.json"), "does not exist"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(typed: tuple[str, ...], says: str) -> None:
    ended = type_bench(*typed)

    assert ended.exit_code == 2
    assert says in ended.stderr.splitlines()[-1]
    assert not Path(".raceday").exists()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("--race-file", "wrong.json"), "must be a JSON array"),
        (("--count", "1", "--output", "empty.json/below"), "cannot be written"),
    ],
)
def test_unreadable_races_and_unwritable_output_are_said_in_one_line(typed: tuple[str, ...], says: str) -> None:
    error = type_bench(*typed).exception

    assert isinstance(error, BenchError)
    assert says in str(error)
    assert "\n" not in str(error)
    assert not Path(".raceday").exists()
