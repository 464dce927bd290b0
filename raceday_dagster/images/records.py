"""The values of a batch of images: one image on its way, what it came to, what the batch came to."""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict

from raceday_dagster.errors import ImageError
from raceday_dagster.images.sources import ImageSource
from raceday_dagster.racing.outcomes import BatchProgress, BatchResults, ItemError, ItemResult
from raceday_dagster.racing.records import Record


class ImageTimings(Record):
    """Milliseconds of each stage; 0 for one that was not reached. ``total_ms`` runs from the first to the last."""

    read_ms: int = 0
    compress_ms: int = 0
    describe_ms: int = 0
    total_ms: int = 0


class ImageFacts(Record):
    """What is known of an image once it has been read and compressed."""

    model_config = ConfigDict(ser_json_bytes="base64")

    content_hash: str
    """SHA-256 of the source's bytes, in hexadecimal."""
    bytes_before: int
    bytes_after: int
    size_before: tuple[int, int]
    """Width and height in pixels, upright."""
    size_after: tuple[int, int]
    preview: bytes
    """A WebP of at most 64 x 64 pixels, some 2 kB, that keeps what is transparent."""


class Description(Record):
    """What the vision API says of an image, as the rules of ``validation`` want it."""

    title: str
    keywords: tuple[str, ...]
    category: int


class ImageInProgress(Record):
    """An image between two stages.

    An expected failure is a value: once ``error`` is set, the later stages hand the image on untouched, and the last
    one still cleans up.
    """

    source: ImageSource
    started_s: float
    """Reading of ``time.monotonic`` when the first stage began."""
    ends_s: float
    """Reading of ``time.monotonic`` at which the image must have ended."""
    retries_left: int
    timings: ImageTimings = ImageTimings()
    facts: ImageFacts | None = None
    temporary_name: str | None = None
    """Under which ``TemporaryUrls`` serves the compressed image; ``None`` before and after."""
    description: Description | None = None
    is_known: bool = False
    """The description is one that was kept: the image is not sent."""
    error: ItemError | None = None

    def measure(self, **stage_ms: int) -> Self:
        """The same image, with the milliseconds of a stage."""
        return self.model_copy(update={"timings": self.timings.model_copy(update=stage_ms)})

    def fail(self, error: ImageError) -> Self:
        """The same image, failed."""
        return self.model_copy(update={"error": ItemError.of(error)})


class ImageResult(ItemResult):
    """What one image came to; skipped: its description was known before."""

    source: ImageSource
    timings: ImageTimings = ImageTimings()
    model: str
    facts: ImageFacts | None = None
    description: Description | None = None

    @property
    def name(self) -> str:
        """How the image is called in tables and files."""
        return self.source.name

    @property
    def total_ms(self) -> int:
        """Milliseconds from the first stage to the last."""
        return self.timings.total_ms


class ImageBatch(BatchResults[ImageResult]):
    """What a batch of images came to, each in exactly one of ``results`` and ``errors``, in the order asked for."""


class ImageProgress(BatchProgress):
    """Where a batch of images stands, with everything that has ended so far."""

    results: tuple[ImageResult, ...] = ()
