"""A simulator whose vision API describes images, and a batch on it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from raceday_dagster.settings import Settings
from raceday_dagster.simulator.running import RunningSimulator, running_simulator

KEY = "sk-hunter2-hunter2"


@pytest.fixture(scope="module")
def started() -> Iterator[RunningSimulator]:
    with running_simulator(racing_day=date(2025, 7, 17), speed=0) as simulator:
        yield simulator


@pytest.fixture
def simulator(started: RunningSimulator) -> RunningSimulator:
    started.clear_faults()
    started.clear_requests()
    return started


@pytest.fixture
def settings(simulator: RunningSimulator) -> Settings:
    return Settings.from_environment({"VISION_API_URL": simulator.vision_url, "VISION_API_KEY": KEY})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten small images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (20 * number, 90, 160)).save(file, "PNG")
        (folder / f"{number}.png").write_bytes(file.getvalue())
    return folder


def count_held(simulator: RunningSimulator, rule_id: str) -> int:
    return int({rule["id"]: rule["waiting"] for rule in simulator.faults()}[rule_id])
