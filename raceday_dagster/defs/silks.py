"""Where images meet the database: which silks want a description, and where descriptions are kept."""

from datetime import date
from urllib.parse import urlsplit

from raceday_dagster.errors import DatabaseError, ImageError, WriteError
from raceday_dagster.images import Description, ImageResult, ImageSource, build_silk_source
from raceday_dagster.images.sources import name_host
from raceday_dagster.settings import Settings, is_on_this_machine
from raceday_dagster.store.images import StoredImage, UndescribedSilk, read_description, read_undescribed_silks
from raceday_dagster.store.race_store import RaceStore


class StoredDescriptions:
    """The table ``image_descriptions`` as a batch of images sees it; safe to share between threads."""

    def __init__(self, race_store: RaceStore) -> None:
        self._race_store = race_store

    def find(self, content_hash: str) -> Description | None:
        """What was said of an image with this content. Raises ``ImageError``, stage "keep"."""
        try:
            stored = self._race_store.read(read_description, content_hash)
        except DatabaseError as error:
            raise ImageError(str(error), stage="keep", retryable=True) from error
        return None if stored is None else Description(**stored.model_dump())

    def keep(self, result: ImageResult) -> None:
        """Stores what an image came to. Raises ``ImageError``, stage "keep"."""
        try:
            self._race_store.record_image(build_stored_image(result))
        except WriteError as error:
            _, _, reason = error.message.partition(": ")  # it begins with what a race or a batch is called
            raise ImageError(f"not stored: {reason}", stage="keep", retryable=error.retryable) from error


def build_stored_image(result: ImageResult) -> StoredImage:
    """The row of an image that has ended."""
    facts, said = result.facts, result.description
    return StoredImage(
        source=result.source.place,
        status=result.status,
        content_hash=facts.content_hash if facts else None,
        title=said.title if said else None,
        keywords=said.keywords if said else None,
        category=said.category if said else None,
        bytes_before=facts.bytes_before if facts else None,
        bytes_after=facts.bytes_after if facts else None,
        model=None if result.status == "skipped" else result.model,
        error=f"{result.error.stage}: {result.error.message}" if result.error else None,
        preview=facts.preview if facts else None,
    )


def find_silk_sources(
    race_store: RaceStore, settings: Settings, racing_day: date, *, limit: int | None = None
) -> tuple[ImageSource, ...]:
    """The silks of a racing day without a description, those of the earliest races first; none for greyhounds.

    Raises:
        DatabaseError: The database cannot be used.
    """
    silks = race_store.read(
        read_undescribed_silks,
        racing_day,
        countries=settings.race_countries,
        categories=settings.race_categories,
        limit=limit,
    )
    sources = (_build_source(silk, settings.nztab_api_url) for silk in silks)
    return tuple(source for source in sources if source)


def _build_source(silk: UndescribedSilk, feed_url: str) -> ImageSource | None:
    feed = urlsplit(feed_url)
    if not is_on_this_machine(feed_url):
        return build_silk_source(silk.name, silk.urls)
    # A simulator listens on another port each time, and serves the same silks.
    urls = [
        urlsplit(url)._replace(netloc=feed.netloc).geturl() if is_on_this_machine(url) else url for url in silk.urls
    ]
    host = name_host(feed.hostname or "", feed.port, feed.scheme)
    return build_silk_source(silk.name, urls, private_host=host, known_as=silk.urls[0])
