"""`raceday images` to its end, and ended: exit codes, partial results, and nothing left behind (criterion AC8)."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raceday_dagster.simulator.running import RunningSimulator
from raceday_dagster_tests.integration.commands import call_raceday
from raceday_dagster_tests.integration.images.vision_fixture import count_held
from raceday_dagster_tests.waiting import PATIENCE_S, wait_for

VISION = "/vision/v1"


def begin(simulator: RunningSimulator, tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raceday_dagster.cli", "images", *map(str, arguments)]
    (tmp_path / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "VISION_API_URL": simulator.vision_url, "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )


def find_left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").iterdir())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_of_which_one_failed_shows_and_writes_the_rest_and_exits_with_1(
    simulator: RunningSimulator, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "2.png").write_bytes(b"no image")
    command = ("images", str(pictures), "--csv", str(tmp_path / "out.csv"))
    ended = call_raceday(tmp_path, *command, VISION_API_URL=simulator.vision_url)
    assert ended.exit_code == 1, ended.output
    assert ended.stdout.splitlines()[-1] == "9 of 10 described, 1 failed"
    assert "compress: not a JPEG, PNG, WebP or GIF image" in ended.stdout
    assert len(ended.stderr.splitlines()) == 10
    rows = read_csv(tmp_path / "out.csv")
    assert [row["Filename"] for row in rows] == [f"{number}.png" for number in range(10) if number != 2]
    assert all(30 <= len(row["Keywords"].split(", ")) <= 50 and row["Releases"] == "" for row in rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ac8_a_signal_leaves_no_file_and_no_connection_and_keeps_what_was_described(
    number: signal.Signals, code: int, simulator: RunningSimulator, pictures: Path, tmp_path: Path
) -> None:
    rule = simulator.add_fault(VISION, "hold", times=5, timeout_s=120)
    process = begin(simulator, tmp_path, pictures, "--csv", tmp_path / "out.csv", "--max-concurrent", 6)
    assert all(process.stderr.readline().endswith(" described\n") for _ in range(5))
    assert count_held(simulator, rule) == 5
    process.send_signal(number)
    out, _err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert find_left(tmp_path) == []
    wait_for(lambda: count_held(simulator, rule) == 0)  # nobody released them: the connections are gone
    described = read_csv(tmp_path / "out.csv")
    assert len(described) == 5
    assert out.splitlines()[-1] == "5 of 10 described, 0 failed, 5 not begun"


def test_ac8_a_kill_leaves_nothing(simulator: RunningSimulator, pictures: Path, tmp_path: Path) -> None:
    rule = simulator.add_fault(VISION, "hold", timeout_s=120)
    process = begin(simulator, tmp_path, pictures)
    wait_for(lambda: count_held(simulator, rule) == 5)
    assert simulator.requests()["total"] == 5, "the other images wait"
    process.kill()
    process.communicate()
    assert find_left(tmp_path) == []


def test_a_csv_that_cannot_be_written_is_said_before_an_image_is_sent(
    simulator: RunningSimulator, pictures: Path, tmp_path: Path
) -> None:
    command = ("images", str(pictures), "--csv", str(tmp_path / "nowhere" / "out.csv"))
    ended = call_raceday(tmp_path, *command, VISION_API_URL=simulator.vision_url)
    assert "cannot be written: No such file" in ended.stderr
    assert ended.exit_code == 1
    assert simulator.requests()["total"] == 0
