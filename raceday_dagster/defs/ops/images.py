"""A batch of images as ops: ``select_images`` → compress → describe → clean up, per image → ``summarise_images``.

As with races, an expected failure is a value that travels to the end: only a bug raises. ``clean_up_image`` ends every
image. The extra ``images`` is needed to run this, not to load it.
"""

import re
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from raceday_dagster.defs.failures import failing_plainly
from raceday_dagster.defs.ops.batch import Batch, FailRunWhen, SummariseBatch, begin_batch, is_failed
from raceday_dagster.defs.ops.day import ChosenDay, parse_racing_day
from raceday_dagster.defs.reporting import FAILED_TAG, ProgressBoard, build_listing, count_items
from raceday_dagster.defs.silks import find_silk_sources
from raceday_dagster.images import ImageBatch, ImageResult, ImageSource, find_sources
from raceday_dagster.images.records import ImageInProgress
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.records import Record
from raceday_dagster.settings import Settings
from raceday_dagster.store.images import PREVIEW_TYPE
from raceday_dagster.store.race_store import RaceStore

if TYPE_CHECKING:
    from raceday_dagster.images.stages import ImageStages

LONGEST_SLUG = 60


class SelectImages(ChosenDay):
    """Which images to describe, and what each may take."""

    sources: list[str] = Field(
        default=[],
        description="Files, folders and URLs. Empty: the silks of the racing day that were never described.",
    )
    limit: int = Field(
        default=500, ge=1, description="Of the silks at most so many, those of the earliest races first."
    )
    item_timeout_s: float = Field(
        default=30, gt=0, le=600, description="Seconds an image may take, its retries included."
    )
    retries: int = Field(
        default=1, ge=0, le=10, description="Tries after the first, for faults of the network, 429 and 5xx."
    )


class WantedImage(Record):
    """An image to describe, and what it may take."""

    source: ImageSource
    timeout_s: float
    retries: int


@dg.op(
    description="The images of this batch: those asked for, or the racing day's silks that were never described.",
    out={"images": dg.DynamicOut(WantedImage), "batch": dg.Out(Batch)},
)
def select_images(
    context: dg.OpExecutionContext,
    config: SelectImages,
    settings: dg.ResourceParam[Settings],
    race_store: dg.ResourceParam[RaceStore],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> Iterator[dg.Output[Batch] | dg.DynamicOutput[WantedImage]]:
    racing_day = parse_racing_day(config.racing_day, choose_current_racing_day(datetime.now(UTC)))
    with failing_plainly():
        if config.sources:
            sources = find_sources(config.sources)
        else:
            sources = find_silk_sources(race_store, settings, racing_day, limit=config.limit)
    if not sources:
        context.log.info(
            f"No silk of racing day {racing_day} is without a description. `daily_baseline` loads a racing day."
        )
    yield dg.Output(
        begin_batch(context, len(sources), race_store, progress_board), "batch", metadata={"images": len(sources)}
    )
    for number, source in enumerate(sources, 1):
        wanted = WantedImage(source=source, timeout_s=config.item_timeout_s, retries=config.retries)
        yield dg.DynamicOutput(wanted, build_image_key(number, source.name), "images")


def build_image_key(number: int, name: str) -> str:
    """The Dagster mapping key of an image, ``[A-Za-z0-9_]`` only: its number in the batch, and its name to read."""
    return f"{number}_{re.sub('[^A-Za-z0-9]+', '_', name)[:LONGEST_SLUG]}"


# Dagster reads the types of parameters when it loads them, and `ImageStages` needs the extra: hence `Any`.


@dg.op(
    description="Reads one image, makes it small enough to send, and gives it a temporary URL.",
    tags={"dagster/priority": "1", "stage": "compress"},
)
def compress_image(
    context: dg.OpExecutionContext,
    wanted: WantedImage,
    image_stages: dg.ResourceParam[Any],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> ImageInProgress:
    stages: ImageStages = image_stages
    progress_board.start_item()
    image = stages.compress(stages.begin(wanted.source, timeout_s=wanted.timeout_s, retries=wanted.retries))
    _report(context, image, failed_here=image.error is not None)
    return image


@dg.op(
    description="A title, keywords and a category from the vision API, unless they are known.",
    tags={"dagster/priority": "2", "stage": "describe"},
)
def describe_image(
    context: dg.OpExecutionContext, image: ImageInProgress, image_stages: dg.ResourceParam[Any]
) -> ImageInProgress:
    stages: ImageStages = image_stages
    described = stages.describe(image)
    _report(context, described, failed_here=image.error is None and described.error is not None)
    return described


@dg.op(
    description="Ends the temporary URL and stores what became of the image; the end of every image.",
    tags={"dagster/priority": "3", "stage": "clean_up"},
)
def clean_up_image(
    context: dg.OpExecutionContext,
    image: ImageInProgress,
    image_stages: dg.ResourceParam[Any],
    progress_board: dg.ResourceParam[ProgressBoard],
) -> ImageResult:
    stages: ImageStages = image_stages
    result = stages.clean_up(image)
    _report(context, result, failed_here=image.error is None and result.error is not None)
    log = get_logger(run_id=context.run_id)
    log.info("image_complete", image=result.name, status=result.status, timings=result.timings.model_dump())
    progress_board.end_item(result, result.name, lambda progress: log.info("batch_progress", **progress.model_dump()))
    return result


@dg.op(description="What the batch came to: logged and shown, also when every image failed.", out=dg.Out(ImageBatch))
def summarise_images(
    context: dg.OpExecutionContext, config: SummariseBatch, batch: Batch, images: list[ImageResult]
) -> Iterator[dg.Output[ImageBatch]]:
    outcome = ImageBatch.of(
        images,
        started_at=batch.started_at,
        batch_duration_ms=round(1000 * (time.monotonic() - batch.started_s)),
        requested_concurrency=batch.requested_concurrency,
        effective_concurrency=batch.effective_concurrency,
    )
    figures = {
        **count_items(outcome, "image", outcome.slowest.name if outcome.slowest else ""),
        "requested_concurrency": outcome.requested_concurrency,
        "effective_concurrency": outcome.effective_concurrency,
    }
    failed = [{"image": image.name, **image.error.model_dump()} for image in outcome.errors if image.error]
    get_logger(run_id=context.run_id).info("batch_complete", **figures, failed=failed)
    if outcome.failures:
        context.instance.add_run_tags(context.run_id, {FAILED_TAG: str(outcome.failures)})
    yield dg.Output(outcome, metadata={**figures, "images": dg.MetadataValue.md(build_image_table(outcome))})
    if is_failed(outcome, config.fail_run_when or FailRunWhen.all):
        raise dg.Failure(
            f"{outcome.failures} of {len(outcome.items)} images failed ({outcome.retryable_failures} may succeed in "
            f"another run), {outcome.skipped} were known; each image's reason is in its steps and in the table "
            "image_descriptions",
            allow_retries=False,
        )


def build_image_table(outcome: ImageBatch) -> str:
    """A Markdown table of the batch's images: failed ones first, then the slowest."""
    head = "| image | status | read ms | compress ms | describe ms | total ms | bytes | sent | title, or why not |\n"
    rule = "|---|---|---|---|---|---|---|---|---|\n"
    images = sorted(outcome.items, key=lambda image: (image.status != "failed", -image.total_ms))
    return build_listing(head + rule, images, _list_cells, "image_descriptions")


def _list_cells(image: ImageResult) -> Iterator[object]:
    yield from (image.name, image.status, *image.timings.model_dump().values())
    yield from (image.facts.bytes_before, image.facts.bytes_after) if image.facts else ("", "")
    error, said = image.error, image.description
    yield f"{error.stage}: {error.message}" if error else said.title if said else ""


def _report(context: dg.OpExecutionContext, image: ImageInProgress | ImageResult, *, failed_here: bool) -> None:
    """What is known of an image after a stage, as metadata; and that it failed there, in the log and in the UI."""
    context.add_output_metadata(build_image_metadata(image))
    if failed_here and image.error is not None:
        name, error = image.source.name, image.error
        get_logger(run_id=context.run_id).error("image_failed", image=name, **error.model_dump())
        verdict = "another run may succeed" if error.retryable else "another try would fail as well"
        context.log.error(f"Image {name} failed in {error.stage}: {error.message} ({verdict})")


def build_image_metadata(image: ImageInProgress | ImageResult) -> dict[str, Any]:
    """What is known of an image: milliseconds and bytes so far, a small picture, its title, why it failed."""
    shown: dict[str, Any] = {"image": image.source.name, **image.timings.model_dump()}
    if facts := image.facts:
        shown |= {"bytes_before": facts.bytes_before, "bytes_after": facts.bytes_after}
        for when, (width, height) in (("before", facts.size_before), ("after", facts.size_after)):
            shown[f"size_{when}"] = f"{width} x {height}"
        if isinstance(image, ImageResult):  # once is enough: metadata is kept with every event
            picture = b64encode(facts.preview).decode()
            shown["preview"] = dg.MetadataValue.md(f"![](data:{PREVIEW_TYPE};base64,{picture})")
    if said := image.description:
        shown |= {"title": said.title, "keywords": ", ".join(said.keywords), "category": said.category}
    if error := image.error:
        shown |= {f"error_{name}": getattr(error, name) for name in ("stage", "type", "message")}
        shown["retryable"] = error.retryable
    if isinstance(image, ImageResult):
        shown |= {"status": image.status, "model": image.model}
    return shown
