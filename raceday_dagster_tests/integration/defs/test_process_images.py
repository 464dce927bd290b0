"""Batches of images through the real job, on the simulated vision API and the real database."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine
from click.testing import CliRunner
from PIL import Image

from raceday_dagster.cli import images
from raceday_dagster.store.images import read_silks
from raceday_dagster_tests.integration.defs.day_runs import read_failure, read_metadata, released_when_five_wait
from raceday_dagster_tests.integration.postgres_fixture import order
from raceday_dagster_tests.integration.race_day import RACING_DAY, RaceDay, open_race_day, read_log

VISION = "/vision/v1"
KEY = "sk-hunter2-hunter2"


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, VISION_API_KEY=KEY) as opened, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VISION_API_URL", opened.simulator.vision_url)
        yield opened


@pytest.fixture(autouse=True)
def nothing_described(day: RaceDay, database_url: str) -> None:
    order(database_url, "DELETE FROM image_descriptions")


def draw(folder: Path, count: int) -> list[str]:
    """Paths of so many different images."""
    for number in range(count):
        Image.new("RGB", (80, 60), (20 * number, 90, 160)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(count)]


def run(
    day: RaceDay, sources: Sequence[str] = (), *, max_concurrent: int = 5, policy: str = "all", **config: Any
) -> dg.JobExecutionResult:
    return day.run(
        "process_images",
        max_concurrent=max_concurrent,
        select_images={"sources": list(sources), **config},
        summarise_images={"fail_run_when": policy},
    )


def read_stored(day: RaceDay) -> dict[str, Any]:
    return {Path(row["source"]).name: row for row in day.ask("SELECT * FROM image_descriptions")}


def count_sent(day: RaceDay) -> int:
    return int(day.simulator.requests()["total"])


def test_ac1_five_images_are_in_flight_and_never_six(day: RaceDay, tmp_path: Path) -> None:
    with released_when_five_wait(day, VISION):
        result = run(day, draw(tmp_path, 6), item_timeout_s=120)
    assert day.simulator.requests()["in_flight_peak"] == 5
    summary = read_metadata(result, "summarise_images")
    assert (summary["successes"], summary["failures"], summary["effective_concurrency"]) == (6, 0, 5)


def test_one_bad_image_never_costs_the_others_and_each_step_says_what_it_did(
    day: RaceDay, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = draw(tmp_path, 3)
    Path(sources[1]).write_bytes(b"no image")
    result = run(day, sources)
    assert result.success
    stored = read_stored(day)
    assert {name: row["status"] for name, row in stored.items()} == {
        **dict.fromkeys(("0.png", "2.png"), "success"),
        "1.png": "failed",
    }
    assert stored["1.png"]["error"] == "compress: not a JPEG, PNG, WebP or GIF image"
    assert stored["0.png"]["bytes_before"] == Path(sources[0]).stat().st_size

    for stage in ("compress_image", "describe_image", "clean_up_image"):
        shown = read_metadata(result, f"process_image.{stage}[1_0_png]")
        assert shown["image"] == "0.png"
        assert {"read_ms", "compress_ms", "describe_ms", "bytes_before", "bytes_after"} <= set(shown)
        assert ("preview" in shown) == (stage == "clean_up_image")
        assert ("title" in shown) == (stage != "compress_image")
    picture = re.fullmatch(r"!\[\]\(data:image/webp;base64,(.*)\)", shown["preview"])
    assert picture is not None
    assert len(picture[1]) < 10_000
    assert Image.open(io.BytesIO(base64.b64decode(picture[1]))).size == (64, 48)
    assert shown["title"] == stored["0.png"]["title"]
    broken = read_metadata(result, "process_image.clean_up_image[2_1_png]")
    assert (broken["error_stage"], broken["retryable"]) == ("compress", False)
    summary = read_metadata(result, "summarise_images")
    assert (summary["total_images"], summary["successes"], summary["failures"]) == (3, 2, 1)
    assert "not a JPEG" in summary["images"].splitlines()[2]

    written = capfd.readouterr()
    lines = read_log(written.err)
    progress = [line for line in lines if line["event"] == "batch_progress"]
    assert [line["completed"] for line in progress] == [1, 2, 3]
    assert all(line["completed"] + line["processing"] + line["pending"] == line["total"] == 3 for line in progress)
    (failed,) = [line for line in lines if line["event"] == "image_failed"]
    assert (failed["image"], failed["stage"], failed["level"]) == ("1.png", "compress", "error")
    events = json.dumps([repr(event) for event in result.all_events])
    assert "hunter2" not in written.out + written.err + events


def test_the_summary_runs_and_the_run_is_red_when_every_image_failed(day: RaceDay, tmp_path: Path) -> None:
    rule = day.simulator.add_fault(VISION, "status", code=401)
    result = run(day, draw(tmp_path, 2))
    assert day.simulator.fired(rule) == 2
    step, said = read_failure(result)
    assert step == "summarise_images"
    assert "2 of 2 images failed" in said
    assert read_metadata(result, "summarise_images")["failures"] == 2
    assert {row["error"] for row in read_stored(day).values()} == {
        "describe: the vision API refused the key (401): check VISION_API_KEY"
    }
    run_record = day.instance.get_run_by_id(result.run_id)
    assert run_record is not None
    assert run_record.tags["raceday/failed"] == "2"


def test_an_image_that_was_described_before_is_not_sent_again(day: RaceDay, tmp_path: Path) -> None:
    sources = draw(tmp_path, 2)
    assert run(day, sources).success
    assert count_sent(day) == 2
    before = read_stored(day)
    copied = tmp_path / "copy.png"
    copied.write_bytes(Path(sources[0]).read_bytes())
    again = run(day, [*sources, str(copied)])
    assert count_sent(day) == 2
    summary = read_metadata(again, "summarise_images")
    assert (summary["successes"], summary["skipped"], summary["failures"]) == (0, 3, 0)
    assert again.success
    after = read_stored(day)
    assert after["copy.png"]["title"] == before["0.png"]["title"]
    assert [after[name]["keywords"] for name in before] == [before[name]["keywords"] for name in before]


def test_an_image_that_cannot_be_stored_has_failed(day: RaceDay, tmp_path: Path, database_url: str) -> None:
    order(database_url, "ALTER TABLE image_descriptions ADD CONSTRAINT refuse CHECK (source NOT LIKE '%/1.png')")
    try:
        result = run(day, draw(tmp_path, 2))
    finally:
        order(database_url, "ALTER TABLE image_descriptions DROP CONSTRAINT refuse")
    ended = read_metadata(result, "process_image.clean_up_image[2_1_png]")
    assert (ended["status"], ended["error_stage"], ended["retryable"]) == ("failed", "keep", False)
    assert ended["error_message"].startswith("not stored: 23514 ")
    assert set(read_stored(day)) == {"0.png"}


def test_without_sources_it_describes_the_silks_of_the_racing_day_once(day: RaceDay) -> None:
    race_id = day.race_ids[0]
    assert day.poll([race_id]).success
    day.simulator.clear_requests()
    config = {"racing_day": RACING_DAY.isoformat(), "limit": 2}
    first = read_metadata(run(day, **config), "summarise_images")
    assert (first["successes"], first["failures"]) == (2, 0)
    silks = read_silks(day.engine, race_id)
    assert len(silks) == 2
    assert all(silk.title and len(silk.image) < 6_000 for silk in silks.values())
    second = read_metadata(run(day, **config), "summarise_images")
    assert (second["successes"], second["skipped"]) == (2, 0)
    assert len(read_silks(day.engine, race_id)) == 4, "other ones than before"


def test_raceday_images_silks_describes_them_from_the_shell_and_stores_what_was_said(
    day: RaceDay, database_url: str
) -> None:
    order(database_url, f"INSERT INTO racing_days VALUES ('{RACING_DAY}', now()) ON CONFLICT DO NOTHING")
    assert day.poll(day.race_ids[:1]).success
    with time_machine.travel(day.simulator.now()):
        ended = CliRunner().invoke(images, ["--silks", "--limit", "2"])
    assert ended.exit_code == 0, ended.output
    assert ended.output.splitlines()[-1] == "2 of 2 described, 0 failed"
    assert {row["status"] for row in read_stored(day).values()} == {"success"}
    assert len(read_silks(day.engine, day.race_ids[0])) == 2


@pytest.mark.parametrize("typed", [[], ["--silks", "a.png"]])
def test_raceday_images_wants_images_or_silks(typed: list[str]) -> None:
    ended = CliRunner().invoke(images, typed)
    assert ended.exit_code == 2
    assert "name images, or say --silks" in ended.output


def test_a_day_without_silks_is_no_failure(day: RaceDay) -> None:
    result = run(day, racing_day="2020-01-01")
    assert result.success
    assert count_sent(day) == 0
