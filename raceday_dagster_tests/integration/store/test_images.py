"""What is kept of described images, and the silks that the pages show."""

from __future__ import annotations

from typing import Any

from raceday_dagster.store.images import (
    StoredImage,
    find_silk,
    read_description,
    read_silks,
    read_undescribed_silks,
)
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.write_snapshots import START, make_snapshot, name_entrant

FOLLOWED: dict[str, Any] = {"countries": ["NZ"], "categories": ["T"]}
DAY = START.date()
FIRST = name_entrant("race-1", 1)


def make_image(source: str, status: str = "success", **values: Any) -> StoredImage:
    said = {"title": "Green silks", "keywords": ("green", "silks"), "category": 18} if status != "failed" else {}
    known = {"content_hash": "ab", "bytes_before": 900, "bytes_after": 700, "preview": b"a small copy"}
    return StoredImage(source=source, status=status, model="fake", **{**known, **said, **values})


def wear(database_url: str, entrant_id: str, large: str | None, small: str | None, other: str | None = None) -> None:
    with observe(database_url) as run:
        run(
            "UPDATE entrants SET silk_url_128x128 = %(large)s, silk_url_64x64 = %(small)s,"
            " alt_silk_url_128x128 = %(other)s WHERE entrant_id = %(id)s",
            {"large": large, "small": small, "other": other, "id": entrant_id},
        )


def test_a_description_is_found_by_the_content_of_its_image(store: RaceStore) -> None:
    store.record_image(make_image("a"))
    found = store.read(read_description, "ab")
    assert found is not None
    assert (found.title, found.keywords, found.category) == ("Green silks", ("green", "silks"), 18)
    assert store.read(read_description, "cd") is None


def test_a_failure_describes_nothing_and_gives_way_to_a_success(store: RaceStore, database_url: str) -> None:
    store.record_image(make_image("a\x00b", "failed", error="describe: no\x00"))
    assert store.read(read_description, "ab") is None
    store.record_image(make_image("a\x00b"))
    store.record_image(make_image("a\x00b", "failed", content_hash=None, preview=None, error="read: gone"))
    with observe(database_url) as run:
        assert run("SELECT status, error, content_hash FROM image_descriptions") == [("success", None, "ab")]


def test_the_silks_of_a_day_are_asked_for_once_each_until_they_are_described(
    store: RaceStore, database_url: str
) -> None:
    write(store, make_snapshot("race-1"))
    write(store, make_snapshot("race-2"))
    assert store.read(read_undescribed_silks, DAY, **FOLLOWED) == [], "no runner has a silk, as greyhounds"
    wear(database_url, FIRST, "one_128", "one_64")
    wear(database_url, name_entrant("race-2", 1), "one_128", "one_64")
    wear(database_url, name_entrant("race-1", 2), None, "two_64", "two_alt")
    one, two = store.read(read_undescribed_silks, DAY, **FOLLOWED)
    assert (one.urls, two.urls) == (("one_128", "one_64"), ("two_64", "two_alt"))
    assert one.name.startswith("Awapuni R1 1 ")
    assert store.read(read_undescribed_silks, DAY, **FOLLOWED, limit=1) == [one]
    assert store.read(read_undescribed_silks, DAY, countries=["HK"], categories=["T"]) == []

    store.record_image(make_image("one_128"))
    store.record_image(make_image("two_64", "failed", error="describe: no"))
    assert store.read(read_undescribed_silks, DAY, **FOLLOWED) == [two], "a failure is tried again"


def test_the_silk_of_a_runner_is_that_of_its_first_url_with_an_image(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot("race-1"))
    wear(database_url, FIRST, "one_128", "one_64")
    wear(database_url, name_entrant("race-1", 2), None, "two_64")
    assert find_silk(store.engine, FIRST) is None
    store.record_image(make_image("one_64", preview=b"64"))
    store.record_image(make_image("one_128", preview=b"\x00128"))
    store.record_image(make_image("two_64", "failed", error="describe: no"))
    silk = find_silk(store.engine, FIRST)
    assert silk is not None
    assert (silk.image, silk.title) == (b"\x00128", "Green silks")
    silks = read_silks(store.engine, "race-1")
    assert set(silks) == {FIRST, name_entrant("race-1", 2)}
    assert silks[FIRST] == silk
    assert silks[name_entrant("race-1", 2)].title is None, "a picture that nobody could describe is still one"
