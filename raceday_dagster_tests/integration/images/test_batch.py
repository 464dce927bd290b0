"""A batch over HTTP, on the simulated vision API that really fetches the temporary URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from raceday_dagster.images import ImageBatch, build_silk_source, describe_images
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.running import RunningSimulator
from raceday_dagster.simulator.vision import describe
from raceday_dagster_tests.integration.fetch.raw_server import frame, say, serving
from raceday_dagster_tests.integration.images.vision_fixture import KEY, count_held
from raceday_dagster_tests.waiting import wait_for

VISION = "/vision/v1"


def test_ac2_every_image_goes_the_whole_way_and_is_described_from_what_was_served(
    settings: Settings, simulator: RunningSimulator, pictures: Path
) -> None:
    batch = describe_images([pictures], settings=settings)
    assert (batch.successes, batch.failures) == (10, 0)
    assert len({result.description for result in batch.results}) == 10, "each answer is of its own image"
    assert len({result.facts.content_hash for result in batch.results}) == 10


def test_the_same_image_gets_the_same_description(settings: Settings, pictures: Path) -> None:
    first, second = (describe_images([pictures / "3.png"], settings=settings).results[0] for _ in range(2))
    assert first.description == second.description
    assert describe(b"\xff\xd8\xff one") != describe(b"\xff\xd8\xff two")


def test_ac6_a_call_that_never_ends_is_cut_and_its_connection_closed_while_the_others_go_on(
    settings: Settings, simulator: RunningSimulator, pictures: Path
) -> None:
    rule = simulator.add_fault(VISION, "hold", times=1, timeout_s=60)
    batch = describe_images([pictures], settings=settings, timeout_s=4, retries=0)
    assert simulator.fired(rule) == 1
    (cut,) = batch.errors
    assert (cut.error.stage, cut.error.retryable) == ("describe", True)
    assert cut.error.message == "the vision API did not answer in time"
    assert batch.successes == 9
    wait_for(lambda: count_held(simulator, rule) == 0)  # nobody released it: the connection is gone


def test_ac6_a_dripping_answer_is_cut_too(settings: Settings, simulator: RunningSimulator, pictures: Path) -> None:
    rule = simulator.add_fault(VISION, "drip_body", bytes_per_s=2)
    batch = describe_images([pictures / "1.png"], settings=settings, timeout_s=1.5)
    assert batch.errors[0].error.message == "the vision API did not answer in time"
    assert simulator.fired(rule) == 1


@pytest.mark.parametrize("fault", ["reset", "truncated", "503", "429"])
def test_ac7_a_fault_of_the_network_a_429_or_a_5xx_is_retried_once(
    fault: str, settings: Settings, simulator: RunningSimulator, pictures: Path
) -> None:
    kind, params = ("status", {"code": int(fault), "retry_after": "1"}) if fault.isdecimal() else (fault, {})
    rule = simulator.add_fault(VISION, kind, times=1, **params)
    assert describe_images([pictures / "1.png"], settings=settings).successes == 1
    assert simulator.fired(rule) == 1
    assert simulator.requests()["total"] == 2


@pytest.mark.parametrize(
    ("kind", "params", "complaint"),
    [
        ("status", {"code": 400}, "answered 400: "),
        ("status", {"code": 401}, "refused the key (401): check VISION_API_KEY"),
        ("status", {"code": 403}, "refused the key (403): check VISION_API_KEY"),
        ("status", {"code": 404}, "answered 404: "),
        ("refusal", {}, "the vision API refused: I'm sorry"),
        ("garbage", {}, "is no chat completion"),
        ("html", {}, "is no chat completion"),
        ("huge", {"bytes": 10_000_000}, "the answer is larger than 1 MB"),
    ],
)
def test_ac7_what_would_come_again_is_never_retried(
    kind: str,
    params: dict[str, object],
    complaint: str,
    settings: Settings,
    simulator: RunningSimulator,
    pictures: Path,
) -> None:
    rule = simulator.add_fault(VISION, kind, **params)
    (failed,) = describe_images([pictures / "1.png"], settings=settings).errors
    assert complaint in failed.error.message
    assert "\n" not in failed.error.message
    assert not failed.error.retryable
    assert simulator.fired(rule) == 1


def test_an_api_that_cannot_fetch_the_image_says_so(simulator: RunningSimulator, pictures: Path) -> None:
    settings = Settings.from_environment(
        {"VISION_API_URL": simulator.vision_url, "IMAGE_BASE_URL": "http://127.0.0.1:9/images"}
    )
    (failed,) = describe_images([pictures / "1.png"], settings=settings).errors
    assert failed.error.message.startswith("the vision API answered 400: ")
    assert "error while downloading http://127.0.0.1:9/images/" in failed.error.message


def test_an_api_that_is_not_there_is_retried_and_then_said_in_one_line(pictures: Path) -> None:
    settings = Settings.from_environment({"VISION_API_URL": "http://127.0.0.1:9/v1"})
    (failed,) = describe_images([pictures / "1.png"], settings=settings, timeout_s=10).errors
    assert failed.error.message.startswith("the vision API cannot be reached: ")
    assert failed.error.retryable


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Internal Server Error"])
def test_the_key_is_nowhere_even_when_a_server_repeats_it(
    status: str, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f'{{"error": {{"message": "Incorrect API key provided: {KEY}."}}}}'.encode()
    with serving(say(frame(body, "Content-Type: application/json", status=status))) as server:
        settings = Settings.from_environment(
            {"VISION_API_URL": f"http://127.0.0.1:{server.port}/v1", "VISION_API_KEY": KEY}
        )
        batch = describe_images([pictures / "1.png"], settings=settings)
    assert f"Bearer {KEY}".encode() in server.requests[0], "it was sent"
    written = capfd.readouterr()
    for shown in (repr(batch), batch.model_dump_json(), repr(settings), written.out, written.err):
        assert "hunter2" not in shown


def test_silks_fall_back_to_the_url_that_is_there(settings: Settings, simulator: RunningSimulator) -> None:
    base = simulator.vision_url.removesuffix(VISION)
    urls = [f"{base}/silks/nothing.gif", f"{base}/silks/95bd6ff7/3_64x64.png"]
    silk = build_silk_source("R5 3", urls, private_host=base.removeprefix("http://"))
    batch: ImageBatch = describe_images([silk], settings=settings)
    assert batch.results[0].facts.size_before == (64, 64)
