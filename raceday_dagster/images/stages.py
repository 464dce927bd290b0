"""The three stages of one image, with values between them: compress, describe, clean up. Needs the extra ``images``.

Each takes an ``ImageInProgress`` and returns one; an expected failure is a value, and ``clean_up`` always has the last
word. The batch runs them one after the other; a job may run each as a step of its own, all in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from threading import BoundedSemaphore, Event
from typing import Protocol, TypeVar

from raceday_dagster.errors import ImageError, ImageStage
from raceday_dagster.images.compress import compress
from raceday_dagster.images.reading import SourceReader
from raceday_dagster.images.records import Description, ImageInProgress, ImageResult
from raceday_dagster.images.sources import ImageSource
from raceday_dagster.images.temporary_urls import TemporaryUrls
from raceday_dagster.images.validation import Rules, build_prompt, read_description
from raceday_dagster.images.vision import VisionApi
from raceday_dagster.racing.outcomes import ItemError

RETRY_PAUSE_S = 1.0
DECODED_AT_ONCE = 2
"""Decoding keeps a core and up to some hundred megabytes busy: more at once would only be slower."""

ValueT = TypeVar("ValueT")


class Descriptions(Protocol):
    """Where descriptions are kept from one batch to the next."""

    def find(self, content_hash: str) -> Description | None:
        """What was said of an image with this content. Raises ``ImageError``, stage "keep"."""

    def keep(self, result: ImageResult) -> None:
        """Keeps what an image came to. Raises ``ImageError``, stage "keep"."""


class ImageStages:
    """What the stages of all images share: the reader, the temporary URLs, the vision API, the rules.

    Safe to share between threads. ``interrupt`` cuts whatever is under way; it is for the caller to close ``urls``.
    """

    def __init__(
        self,
        urls: TemporaryUrls,
        vision: VisionApi,
        *,
        reader: SourceReader | None = None,
        rules: Rules | None = None,
        descriptions: Descriptions | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """``descriptions``: an image described there before is not sent, and what it comes to is kept there. ``pause``
        waits so many seconds before a retry, unless it is interrupted."""
        self._urls = urls
        self._vision = vision
        self._reader = reader or SourceReader()
        self._rules = rules or Rules()
        self._descriptions = descriptions
        self._monotonic = monotonic
        self._interrupted = Event()
        self._pause = pause or self._interrupted.wait
        self._decoding = BoundedSemaphore(DECODED_AT_ONCE)

    def begin(self, source: ImageSource, *, timeout_s: float, retries: int) -> ImageInProgress:
        """The image at the start of its way: its time runs from now on."""
        now_s = self._monotonic()
        return ImageInProgress(source=source, started_s=now_s, ends_s=now_s + timeout_s, retries_left=retries)

    def compress(self, image: ImageInProgress) -> ImageInProgress:
        """Reads the source, compresses it, and publishes it at a temporary URL unless its description is known."""
        began_s = self._monotonic()
        try:
            image, data = self._try(image, "read", partial(self._reader.read, image.source))
            read_s = self._monotonic()
            image = self._publish(image.measure(read_ms=_ms(read_s - began_s)), data)
            return image.measure(compress_ms=_ms(self._monotonic() - read_s))
        except ImageError as error:
            return image.fail(error)

    def describe(self, image: ImageInProgress) -> ImageInProgress:
        """Asks the vision API about the published image; an answer against the rules is asked for once more."""
        if image.error is not None or image.temporary_name is None:
            return image
        began_s = self._monotonic()
        try:
            image, description = self._ask(image, self._urls.find_url(image.temporary_name))
            image = image.model_copy(update={"description": description})
        except ImageError as error:
            image = image.fail(error)
        return image.measure(describe_ms=_ms(self._monotonic() - began_s))

    def clean_up(self, image: ImageInProgress) -> ImageResult:
        """Ends the temporary URL, says what the image came to, and has that kept."""
        if image.temporary_name is not None:
            self._urls.withdraw(image.temporary_name)
        image = image.measure(total_ms=_ms(self._monotonic() - image.started_s))
        result = ImageResult(
            source=image.source,
            status="failed" if image.error else "skipped" if image.is_known else "success",
            timings=image.timings,
            model=self._vision.model,
            facts=image.facts,
            description=image.description,
            error=image.error,
        )
        if self._descriptions is not None:
            try:
                self._descriptions.keep(result)
            except ImageError as error:
                # The first error is the one to report.
                if result.error is None:
                    return result.model_copy(update={"status": "failed", "error": ItemError.of(error)})
        return result

    def interrupt(self) -> None:
        """Cuts the calls and downloads under way; everything still to come fails as interrupted."""
        self._interrupted.set()
        self._reader.close()
        self._vision.close()

    def _publish(self, image: ImageInProgress, data: bytes) -> ImageInProgress:
        if not self._decoding.acquire(timeout=self._left_s(image, "compress")):
            raise _out_of_time("compress")
        try:
            jpeg, facts = compress(data)
        finally:
            self._decoding.release()
        image = image.model_copy(update={"facts": facts})
        known = self._descriptions.find(facts.content_hash) if self._descriptions is not None else None
        if known is not None:
            return image.model_copy(update={"description": known, "is_known": True})
        self._left_s(image, "compress")
        return image.model_copy(update={"temporary_name": self._urls.publish(jpeg)})

    def _ask(self, image: ImageInProgress, url: str) -> tuple[ImageInProgress, Description]:
        faults: list[str] = []
        for _ in range(2):
            prompt = build_prompt(self._rules, faults)
            image, answer = self._try(image, "describe", partial(self._vision.ask, url, prompt))
            try:
                description = read_description(answer)
            except ImageError as error:
                faults = [error.message]
                continue
            faults = self._rules.find_faults(description)
            if not faults:
                return image, description
        raise ImageError(f"asked twice, invalid twice: {'; '.join(faults)}"[:200], stage="validate")

    def _try(
        self, image: ImageInProgress, stage: ImageStage, call: Callable[[float], ValueT]
    ) -> tuple[ImageInProgress, ValueT]:
        """What ``call`` returns in the seconds it is given.

        It is tried again while that is worth it, the image has retries left and the wait fits in its time.
        """
        while True:
            try:
                return image, call(self._left_s(image, stage))
            except ImageError as error:
                wait_s = max(RETRY_PAUSE_S, error.retry_after_s or 0)
                fits = self._monotonic() + wait_s < image.ends_s and not self._interrupted.is_set()
                if not error.retryable or not image.retries_left or not fits:
                    raise
                self._pause(wait_s)
                image = image.model_copy(update={"retries_left": image.retries_left - 1})

    def _left_s(self, image: ImageInProgress, stage: ImageStage) -> float:
        """Seconds the image has left; raises ``ImageError`` when there are none, or all was interrupted."""
        left_s = image.ends_s - self._monotonic()
        if self._interrupted.is_set():
            raise ImageError("interrupted", stage=stage, retryable=True)
        if left_s <= 0:
            raise _out_of_time(stage)
        return left_s


def _out_of_time(stage: ImageStage) -> ImageError:
    return ImageError("took longer than its time-out", stage=stage, retryable=True)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
