"""The batch: criteria AC1, AC3, AC4, AC5 and AC8 of source document 004, over fakes and barriers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from raceday_dagster.errors import ImageError, ImagesError
from raceday_dagster.images import ImageProgress
from raceday_dagster.images.batch import check_addresses, run_batch
from raceday_dagster.images.sources import ImageSource
from raceday_dagster.settings import Settings
from raceday_dagster_tests.unit.images.fakes import VALID, FakeReader, FakeVision, Workshop, fail_describe, name_sources

PATIENCE_S = 20


class CountingVision(FakeVision):
    """Answers when ``parties`` calls have met; counts the calls at work and the rounds."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.rounds = self.at_work = self.peak = 0
        self.barrier = threading.Barrier(parties, action=self.count_round)

    def count_round(self) -> None:
        self.rounds += 1

    def ask(self, image_url: str, prompt: str, timeout_s: float) -> str:
        with self.lock:
            self.at_work += 1
            self.peak = max(self.peak, self.at_work)
        self.barrier.wait(PATIENCE_S)
        with self.lock:
            self.at_work -= 1
        return VALID


def test_ac1_and_ac5_five_images_are_in_flight_and_never_six_and_take_a_fifth_of_the_rounds() -> None:
    vision = CountingVision(parties=5)
    batch = run_batch(name_sources(20), Workshop(vision).stages)
    assert (vision.peak, vision.rounds) == (5, 4)
    assert batch.successes == 20
    assert (batch.requested_concurrency, batch.effective_concurrency) == (5, 5)


@pytest.mark.parametrize("broken", [["3"], ["0", "4", "9"]])
def test_ac3_failing_images_cost_the_others_nothing_and_results_keep_their_order(broken: list[str]) -> None:
    def break_off() -> bytes:
        raise ImageError("not there", stage="read")

    batch = run_batch(name_sources(10), Workshop(reader=FakeReader(**dict.fromkeys(broken, break_off))).stages)
    assert [result.name for result in batch.errors] == [f"{name}.png" for name in broken]
    assert [result.name for result in batch.results] == [f"{n}.png" for n in range(10) if str(n) not in broken]
    assert {(result.error.stage, result.error.message) for result in batch.errors} == {("read", "not there")}


def test_ac3_a_batch_of_nothing_but_failures_returns() -> None:
    batch = run_batch(name_sources(7), Workshop(FakeVision(fail_describe("refused", retryable=False))).stages)
    assert (batch.successes, batch.failures) == (0, 7)


def test_ac3_a_defect_of_ours_costs_one_image_and_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    def misbehave() -> bytes:
        raise ZeroDivisionError("in the reader")

    workshop = Workshop(reader=FakeReader(**{"1": misbehave}))
    batch = run_batch(name_sources(3), workshop.stages)
    assert [(result.name, result.error.type) for result in batch.errors] == [("1.png", "ZeroDivisionError")]
    assert '"event": "image_defect"' in capsys.readouterr().err


def test_ac4_progress_is_told_after_every_image_with_the_results_so_far() -> None:
    told: list[ImageProgress] = []
    vision = FakeVision(VALID, fail_describe(retryable=False), VALID)
    batch = run_batch(name_sources(8), Workshop(vision).stages, on_progress=told.append)
    assert [progress.completed for progress in told] == list(range(1, 9))
    for progress in told:
        assert progress.completed == progress.successful + progress.failed == len(progress.results)
        assert progress.completed + progress.processing + progress.pending == progress.total == 8
        assert progress.processing <= 5
        assert progress.current == progress.results[-1].name
    assert (told[-1].successful, told[-1].failed, told[-1].eta_ms) == (7, 1, 0)
    assert {result.name for result in told[-1].results} == {result.name for result in batch.items}


def test_ac4_a_callback_that_raises_hurts_nobody_and_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    def raise_always(_progress: ImageProgress) -> None:
        raise RuntimeError("the page is gone")

    assert run_batch(name_sources(6), Workshop().stages, on_progress=raise_always).successes == 6
    assert capsys.readouterr().err.count('"event": "progress_callback_failed"') == 6


def test_ac4_the_time_left_is_the_mean_time_over_the_images_at_work() -> None:
    progress = ImageProgress.of({"success": 2}, total=10, processing=3, items_ms=4_000)
    assert progress.eta_ms == 2_000 * 8 / 4


def test_ac8_no_temporary_file_is_left_whatever_an_image_came_to() -> None:
    invalid = "no JSON"
    workshop = Workshop(FakeVision(VALID, fail_describe(retryable=False), invalid, invalid, VALID))
    batch = run_batch(name_sources(10), workshop.stages)
    assert 0 < batch.failures < 10
    assert workshop.urls.published == 10
    assert workshop.urls.live == {}


class Interrupted(list[ImageSource]):
    """Sources of which a Ctrl-C comes before the last."""

    def __iter__(self) -> Iterator[ImageSource]:
        yield from self[:-1]
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [list, Interrupted])
def test_ac8_an_interrupted_batch_cuts_what_is_under_way_and_leaves_no_file(kind: type[list[ImageSource]]) -> None:
    class HeldVision(FakeVision):
        def __init__(self) -> None:
            super().__init__()
            self.cut = threading.Event()

        def ask(self, image_url: str, prompt: str, timeout_s: float) -> str:
            if image_url.endswith("-1"):
                return VALID
            assert self.cut.wait(PATIENCE_S)
            raise fail_describe("interrupted")

        def close(self) -> None:
            self.cut.set()

    def interrupt(_progress: ImageProgress) -> None:
        raise KeyboardInterrupt

    workshop = Workshop(HeldVision())
    with pytest.raises(KeyboardInterrupt):
        run_batch(kind(name_sources(30)), workshop.stages, on_progress=interrupt)
    assert workshop.reader.closed
    assert workshop.urls.live == {}
    assert workshop.urls.published < 10


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "VISION_API_URL is not set"),
        ({"VISION_API_URL": "https://vision.example/v1"}, "VISION_API_KEY is not set"),
        ({"VISION_API_URL": "https://vision.example/v1", "VISION_API_KEY": "k"}, "vision.example cannot fetch images"),
        (
            {
                "VISION_API_URL": "https://vision.example/v1",
                "VISION_API_KEY": "k",
                "IMAGE_BASE_URL": "http://127.0.0.1:8090",
            },
            "vision.example cannot fetch images from http://127.0.0.1:8090",
        ),
        (
            {
                "VISION_API_URL": "https://vision.example/v1",
                "VISION_API_KEY": "k",
                "IMAGE_BASE_URL": "https://images.example/t",
            },
            "IMAGE_BASE_URL needs a port to lead to",
        ),
    ],
)
def test_a_batch_whose_api_could_never_fetch_an_image_does_not_begin(
    environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ImagesError) as caught:
        check_addresses(Settings.from_environment(environment))
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_an_api_on_this_machine_needs_neither_a_key_nor_a_public_address() -> None:
    url = "http://localhost:11434/v1"
    assert check_addresses(Settings.from_environment({"VISION_API_URL": url})) == url
