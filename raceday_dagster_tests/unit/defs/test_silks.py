"""Where the silks of a racing day are read, and what is stored of them."""

from __future__ import annotations

from datetime import date

import pytest

from raceday_dagster.defs.silks import build_stored_image, find_silk_sources
from raceday_dagster.images import ImageResult
from raceday_dagster.racing.outcomes import ItemError
from raceday_dagster.settings import Settings
from raceday_dagster.store.images import UndescribedSilk, read_undescribed_silks

DAY = date(2026, 9, 26)


class FakeStore:
    """Has one silk without a description, with these URLs."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    def read(self, query: object, racing_day: date, **_chosen: object) -> list[UndescribedSilk]:
        assert (query, racing_day) == (read_undescribed_silks, DAY)
        return [UndescribedSilk(name="Te Rimu R5 3 Kindly Nomad", urls=self.urls)]


@pytest.mark.parametrize(
    ("feed", "stored", "read", "private_host"),
    [
        ("https://api.example/v1", "https://silks.example/3.png", "https://silks.example/3.png", None),
        ("https://api.example/v1", "http://127.0.0.1:80/3.png", "http://127.0.0.1:80/3.png", None),
        ("http://127.0.0.1:9/v1", "http://127.0.0.1:8/3.png", "http://127.0.0.1:9/3.png", "127.0.0.1:9"),
        ("http://127.0.0.1:9/v1", "https://silks.example/3.png", "https://silks.example/3.png", "127.0.0.1:9"),
    ],
)
def test_a_silk_is_read_on_this_machine_only_where_the_feed_is_and_at_its_present_port(
    feed: str, stored: str, read: str, private_host: str | None
) -> None:
    settings = Settings.from_environment({"NZTAB_API_URL": feed})
    (source,) = find_silk_sources(FakeStore(stored, stored), settings, DAY)
    assert (source.name, source.urls, source.private_host) == ("Te Rimu R5 3 Kindly Nomad", (read,), private_host)
    assert source.place == stored, "it is kept under the URL that its runner has"


def test_what_is_stored_of_an_image_that_was_never_read_is_why() -> None:
    settings = Settings.from_environment({"NZTAB_API_URL": "https://api.example/v1"})
    (source,) = find_silk_sources(FakeStore("https://silks.example/3.png"), settings, DAY)
    error = ItemError(stage="read", type="ImageError", message="not there (404)", retryable=False)
    row = build_stored_image(ImageResult(source=source, status="failed", model="fake", error=error))
    assert (row.source, row.status, row.error) == (source.place, "failed", "read: not there (404)")
    assert (row.title, row.preview, row.content_hash) == (None, None, None)
