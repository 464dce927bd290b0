"""The way of one image: criteria AC2, AC6 and AC7 of source document 004, over fakes and a clock moved by hand."""

from __future__ import annotations

import pytest

from raceday_dagster.errors import ImageError
from raceday_dagster.images import ImageResult
from raceday_dagster_tests.unit.images.fakes import (
    VALID,
    FakeDescriptions,
    FakeReader,
    FakeVision,
    Workshop,
    fail_describe,
    name_sources,
)

(SOURCE,) = name_sources(1)


def process(workshop: Workshop, *, retries: int = 1, timeout_s: float = 30) -> ImageResult:
    image = workshop.stages.begin(SOURCE, timeout_s=timeout_s, retries=retries)
    return workshop.stages.clean_up(workshop.stages.describe(workshop.stages.compress(image)))


def test_ac2_each_stage_comes_after_the_one_before() -> None:
    seen: list[str] = []
    workshop = Workshop(FakeVision(lambda: seen.append(f"described {sorted(workshop.urls.live)}") or VALID))
    image = workshop.stages.begin(SOURCE, timeout_s=30, retries=1)
    assert (image.facts, image.temporary_name) == (None, None)
    image = workshop.stages.compress(image)
    assert workshop.reader.asked == ["0.png"]
    assert workshop.urls.live["temporary-1"].startswith(b"\xff\xd8\xff"), "a JPEG is served"
    image = workshop.stages.describe(image)
    assert seen == ["described ['temporary-1']"], "the URL is live while the API is asked"
    assert workshop.vision.urls == ["http://temporary.example/temporary-1"]
    result = workshop.stages.clean_up(image)
    assert workshop.urls.live == {}
    assert result.success
    assert result.description.category == 18
    assert (result.facts.size_before, result.facts.bytes_before, result.model) == ((40, 30), len(PNG_BYTES), "fake")


PNG_BYTES = FakeReader().read(SOURCE, 1)


def test_a_failed_image_passes_the_later_stages_untouched() -> None:
    def break_off() -> bytes:
        raise ImageError("not there (404)", stage="read")

    workshop = Workshop(reader=FakeReader(**{"0": break_off}))
    result = process(workshop)
    assert (result.status, result.error.stage, result.error.message) == ("failed", "read", "not there (404)")
    assert workshop.vision.urls == []


def test_an_image_whose_content_was_described_before_is_neither_published_nor_sent() -> None:
    descriptions = FakeDescriptions()
    first, second = Workshop(descriptions=descriptions), Workshop(descriptions=descriptions)
    described = process(first)
    (known,) = descriptions.kept.values()
    assert known == described
    result = process(second)
    assert (result.status, result.error, result.description) == ("skipped", None, described.description)
    assert (second.urls.published, second.vision.urls) == (0, [])


def test_an_image_that_cannot_be_kept_has_failed_unless_it_had_failed_before() -> None:
    refusal = ImageError("the database is gone", stage="keep", retryable=True)
    for vision, stage in ((FakeVision(), "keep"), (FakeVision(fail_describe(retryable=False)), "describe")):
        workshop = Workshop(vision, descriptions=FakeDescriptions(refusal))
        result = process(workshop)
        assert (result.status, result.error.stage) == ("failed", stage)
        assert workshop.urls.live == {}


@pytest.mark.parametrize(
    ("answers", "failed_with", "pauses_s"),
    [
        pytest.param((fail_describe(), VALID), None, [1.0], id="recoverable: once more after a second"),
        pytest.param((fail_describe(), fail_describe("503"), VALID), "503", [1.0], id="its retries are spent"),
        pytest.param((fail_describe("400", retryable=False), VALID), "400", [], id="it would come again"),
        pytest.param((fail_describe(retry_after_s=12.0), VALID), None, [12.0], id="Retry-After fits in what is left"),
        pytest.param((fail_describe("429", retry_after_s=40.0), VALID), "429", [], id="Retry-After does not fit"),
    ],
)
def test_ac7_a_failure_is_tried_again_where_that_is_worth_it(
    answers: tuple[str | ImageError, ...], failed_with: str | None, pauses_s: list[float]
) -> None:
    workshop = Workshop(FakeVision(*answers))
    result = process(workshop)
    assert result.success is (failed_with is None)
    if failed_with is not None:
        assert (result.error.message, result.error.retryable) == (failed_with, failed_with != "400")
    assert workshop.pauses_s == pauses_s
    assert len(workshop.vision.urls) == 1 + len(pauses_s)


def test_ac7_a_recoverable_failure_of_the_source_is_tried_once_more_too() -> None:
    answers = iter([ImageError("answered 503", stage="read", retryable=True), PNG_BYTES])

    def answer() -> bytes:
        following = next(answers)
        if isinstance(following, ImageError):
            raise following
        return following

    assert process(Workshop(reader=FakeReader(**{"0": answer}))).success


def test_ac6_a_call_gets_only_what_is_left_of_the_images_time() -> None:
    def take_20_s() -> str:
        workshop.clock.advance(20)
        raise fail_describe()

    workshop = Workshop(FakeVision(take_20_s, VALID))
    assert process(workshop).success
    assert workshop.vision.timeouts_s == [30, 9]


def test_ac6_an_image_whose_time_is_over_is_failed_and_its_file_gone() -> None:
    def take_for_ever() -> str:
        workshop.clock.advance(30)
        raise fail_describe("the vision API did not answer in time")

    workshop = Workshop(FakeVision(take_for_ever))
    result = process(workshop)
    assert (result.error.stage, result.error.message) == ("describe", "the vision API did not answer in time")
    assert result.total_ms == 30_000
    assert len(workshop.vision.urls) == 1, "there is no time for a retry"
    assert workshop.urls.live == {}


def test_ac6_time_that_runs_out_between_two_stages_counts() -> None:
    workshop = Workshop()
    image = workshop.stages.compress(workshop.stages.begin(SOURCE, timeout_s=30, retries=1))
    workshop.clock.advance(31)
    result = workshop.stages.clean_up(workshop.stages.describe(image))
    assert result.error.message == "took longer than its time-out"
    assert workshop.urls.live == {}


def test_an_answer_against_the_rules_is_asked_for_again_with_what_is_wrong() -> None:
    workshop = Workshop(FakeVision(VALID.replace("Bright", "Bright, very"), VALID))
    assert process(workshop, retries=0).success
    assert "refused: the title has a comma" in workshop.vision.prompts[1]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("", "the answer is empty"), ("I see a horse.", "the answer is no JSON"), ('{"title": 3}', "there is no title")],
)
def test_an_image_whose_answer_is_invalid_twice_fails_and_gets_no_made_up_text(answer: str, complaint: str) -> None:
    workshop = Workshop(FakeVision(answer))
    result = process(workshop)
    assert (result.error.stage, result.error.retryable) == ("validate", False)
    assert complaint in result.error.message
    assert result.description is None
    assert len(workshop.vision.urls) == 2


def test_an_interrupted_image_fails_as_such_and_is_not_retried() -> None:
    def interrupt() -> str:
        workshop.stages.interrupt()
        raise fail_describe("interrupted")

    workshop = Workshop(FakeVision(interrupt))
    assert process(workshop).error.message == "interrupted"
    assert workshop.pauses_s == []
