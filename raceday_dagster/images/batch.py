"""A batch of images: at most so many at once, partial results whatever happens to one of them."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raceday_dagster.errors import ImagesError
from raceday_dagster.images.records import ImageBatch, ImageProgress, ImageResult
from raceday_dagster.images.sources import ImageSource, find_sources
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import ItemError
from raceday_dagster.settings import Settings, is_on_this_machine

if TYPE_CHECKING:
    from raceday_dagster.images.stages import Descriptions, ImageStages

OnProgress = Callable[[ImageProgress], object]


def describe_images(
    sources: Iterable[str | Path | ImageSource],
    *,
    max_concurrent: int = 5,
    timeout_s: float = 30,
    retries: int = 1,
    on_progress: OnProgress | None = None,
    settings: Settings | None = None,
    descriptions: Descriptions | None = None,
) -> ImageBatch:
    """Describes files, the image files of folders, and URLs; at most ``max_concurrent`` at once.

    Args:
        sources: What to describe, each once.
        timeout_s: Seconds an image may take, from the first byte that is read to the last of the answer.
        retries: How often an image is tried again after a fault of the network, 429 or 5xx.
        on_progress: Called in the calling thread after every image; what it raises is logged and hurts nobody.
        settings: The environment's, unless given.
        descriptions: Where they are kept: an image described there before is skipped, and the others are kept there.

    Returns:
        Every image in one of ``results`` and ``errors``; a failure of one image raises nothing.

    Raises:
        ImagesError: The batch cannot begin: nothing to describe, a setting or the extra ``images`` is missing.
        SettingsError: A variable is wrong.
    """
    found = find_sources(sources)
    with open_stages(settings or Settings.from_environment(), descriptions=descriptions) as stages:
        return run_batch(
            found, stages, max_concurrent=max_concurrent, timeout_s=timeout_s, retries=retries, on_progress=on_progress
        )


@contextmanager
def open_stages(settings: Settings, *, descriptions: Descriptions | None = None) -> Iterator[ImageStages]:
    """What the stages of a batch share, open for the length of the block.

    Raises:
        ImagesError: As ``describe_images``.
    """
    if any(importlib.util.find_spec(name) is None for name in ("PIL", "openai")):
        raise ImagesError("describing images needs the extra `images`: pip install 'raceday-dagster[images]'")
    from raceday_dagster.images.stages import ImageStages
    from raceday_dagster.images.temporary_urls import TemporaryUrls
    from raceday_dagster.images.validation import Rules
    from raceday_dagster.images.vision import VisionApi

    url = check_addresses(settings)
    vision = VisionApi(url, settings.vision_api_key, settings.vision_model)
    with TemporaryUrls(settings.image_base_url, listen=settings.image_listen) as urls:
        stages = ImageStages(urls, vision, rules=Rules.of(settings), descriptions=descriptions)
        try:
            yield stages
        finally:
            stages.interrupt()


def run_batch(
    sources: Sequence[ImageSource],
    stages: ImageStages,
    *,
    max_concurrent: int = 5,
    timeout_s: float = 30,
    retries: int = 1,
    on_progress: OnProgress | None = None,
) -> ImageBatch:
    """Takes every image through its stages, at most ``max_concurrent`` at once; the parts of ``describe_images``.

    An exception that ends the wait (Ctrl-C) interrupts the images under way, lets them clean up, and goes on.
    """
    started_at, began_s = datetime.now(UTC), time.monotonic()
    at_once = max(1, min(max_concurrent, len(sources)))
    ended: list[ImageResult] = []
    with ThreadPoolExecutor(at_once, thread_name_prefix="image") as threads:
        try:
            images = [threads.submit(process_image, source, stages, timeout_s, retries) for source in sources]
            for image in as_completed(images):
                ended.append(image.result())
                if on_progress is not None:
                    _tell(on_progress, ended, total=len(sources), at_once=at_once)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            stages.interrupt()
            raise
    return ImageBatch.of(
        (image.result() for image in images),
        started_at=started_at,
        batch_duration_ms=round((time.monotonic() - began_s) * 1000),
        requested_concurrency=max_concurrent,
        effective_concurrency=at_once,
    )


def process_image(source: ImageSource, stages: ImageStages, timeout_s: float, retries: int) -> ImageResult:
    """One image from its source to its description, cleaned up whatever happens; raises nothing."""
    image = stages.begin(source, timeout_s=timeout_s, retries=retries)
    try:
        image = stages.compress(image)
        image = stages.describe(image)
    except Exception as error:  # noqa: BLE001 - what one image does, be it a defect of ours, never ends the batch
        get_logger(image=source.name).error("image_defect", type=type(error).__name__, exc_info=error)
        defect = ItemError(stage="describe", type=type(error).__name__, message=f"a defect: {error}", retryable=False)
        image = image.model_copy(update={"error": defect})
    return stages.clean_up(image)


def _tell(on_progress: OnProgress, ended: Sequence[ImageResult], *, total: int, at_once: int) -> None:
    """Says where a batch stands when the last of ``ended`` has just left its place free."""
    counted = ImageProgress.of(
        Counter(result.status for result in ended),
        total=total,
        processing=min(at_once - 1, total - len(ended)),
        items_ms=sum(result.total_ms for result in ended),
        current=ended[-1].name,
    )
    try:
        on_progress(counted.model_copy(update={"results": tuple(ended)}))
    except Exception as error:  # noqa: BLE001 - whatever a caller's callback does, the batch goes on
        get_logger().error("progress_callback_failed", type=type(error).__name__, exc_info=error)


def check_addresses(settings: Settings) -> str:
    """The vision API's base URL, once it is sure that the API can reach our temporary URLs.

    Raises:
        ImagesError: It is not set, or the API could never reach them.
    """
    if settings.vision_api_url is None:
        raise ImagesError(
            "VISION_API_URL is not set: it must be the base URL of an OpenAI-compatible API, like "
            "https://api.openai.com/v1; `raceday sandbox -- COMMAND` runs a command with a simulated one"
        )
    host = urlsplit(settings.vision_api_url).hostname
    if is_on_this_machine(settings.vision_api_url):
        return settings.vision_api_url
    if settings.vision_api_key is None:
        raise ImagesError(f"VISION_API_KEY is not set, and {host} is not on this machine")
    base_url = settings.image_base_url
    if base_url is None or is_on_this_machine(base_url):
        raise ImagesError(
            f"{host} cannot fetch images from {base_url or 'this machine'}: set IMAGE_BASE_URL to a public address "
            "that leads to IMAGE_LISTEN on this machine"
        )
    if settings.image_listen.endswith(":0"):
        raise ImagesError("IMAGE_BASE_URL needs a port to lead to: set IMAGE_LISTEN, like 127.0.0.1:8090")
    return settings.vision_api_url
