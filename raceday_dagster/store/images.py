"""The table ``image_descriptions``: what was said of images, which silks were never described, and a runner's silk.

The silk of a runner is the image of the first of its URLs that has one: 128 pixels before 64, and these before
the alternative ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine

from raceday_dagster.racing.outcomes import Status
from raceday_dagster.racing.records import Record
from raceday_dagster.store.ledger import make_storable
from raceday_dagster.store.queries import ask_engine
from raceday_dagster.store.transaction import Transaction

PREVIEW_TYPE = "image/webp"
"""Media type of every ``preview``."""

DESCRIPTION = """
SELECT title, keywords, category FROM image_descriptions
WHERE content_hash = %(content_hash)s AND status <> 'failed'
ORDER BY updated_at DESC LIMIT 1
"""
# Each silk once, although a runner may be listed twice, in the order in which it is wanted.
UNDESCRIBED_SILKS = """
SELECT name, urls
FROM (
    SELECT DISTINCT ON (urls) name, urls, start_time, runner_number
    FROM (
        SELECT meeting_name || ' R' || race_number || ' ' || runner_number || ' ' || entrants.name AS name,
            array_remove(
                ARRAY[silk_url_128x128, silk_url_64x64, alt_silk_url_128x128, alt_silk_url_64x64], NULL
            ) AS urls,
            start_time, runner_number
        FROM entrants JOIN races USING (race_id) JOIN meetings USING (meeting_id)
        WHERE races.racing_day = %(racing_day)s AND withdrawn_at IS NULL
            AND country = ANY (%(countries)s) AND races.type = ANY (%(categories)s)
    ) AS worn
    WHERE urls <> '{}'
        AND NOT EXISTS (SELECT FROM image_descriptions WHERE source = ANY (urls) AND status <> 'failed')
    ORDER BY urls, start_time, runner_number
) AS silks
ORDER BY start_time, runner_number, name
LIMIT %(limit)s
"""
SILKS = """
SELECT entrant_id, preview AS image, title
FROM entrants CROSS JOIN LATERAL (
    SELECT preview, title
    FROM unnest(ARRAY[silk_url_128x128, silk_url_64x64, alt_silk_url_128x128, alt_silk_url_64x64])
            WITH ORDINALITY AS worn (url, place)
        JOIN image_descriptions ON source = url
    WHERE preview IS NOT NULL
    ORDER BY place LIMIT 1
) AS silk
WHERE entrant_id = %(entrant_id)s OR race_id = %(race_id)s
"""


class StoredImage(Record):
    """A row of ``image_descriptions``: what became of one source."""

    source: str
    """The file's path, or the first of its URLs."""
    status: Status
    content_hash: str | None = None
    """SHA-256 of the source's bytes, in hexadecimal; ``None`` when there were none to be had."""
    title: str | None = None
    keywords: tuple[str, ...] | None = None
    category: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    model: str | None
    """What described it; ``None`` when it was not asked, because the content was known."""
    error: str | None = None
    """The stage that failed, and why, in one line."""
    preview: bytes | None = None
    """A small copy, of the type ``PREVIEW_TYPE``."""


_COLUMNS = tuple(StoredImage.model_fields)
# As in the ledger: a failure gives way to whatever comes later, and replaces nothing but a failure.
RECORD_IMAGE = "\n".join(
    (
        f"INSERT INTO image_descriptions AS stored ({', '.join(_COLUMNS)})",
        f"VALUES ({', '.join(f'%({name})s' for name in _COLUMNS)})",
        "ON CONFLICT (source) DO UPDATE",
        f"SET {', '.join(f'{name} = EXCLUDED.{name}' for name in _COLUMNS[1:])}, updated_at = now()",
        "WHERE stored.status = 'failed' OR EXCLUDED.status <> 'failed'",
    )
)


class StoredDescription(Record):
    """What is known of an image with a certain content."""

    title: str
    keywords: tuple[str, ...]
    category: int


class UndescribedSilk(Record):
    """A silk that a runner wears and that was never described."""

    name: str
    """Meeting, race number, runner number and runner, for people."""
    urls: tuple[str, ...]
    """Where it is, best first."""


class Silk(Record):
    """Our copy of a runner's silk, small enough for a list."""

    entrant_id: str
    image: bytes
    """Of the type ``PREVIEW_TYPE``: at most 64 x 64 pixels, a few kilobytes."""
    title: str | None
    """What is to be seen, as alternative text; ``None`` when nobody could say."""


def record_image(transaction: Transaction, image: StoredImage) -> None:
    """Stores what became of a source. A failure leaves alone what was described before."""
    values: dict[str, Any] = image.model_dump()
    for name in ("source", "error"):
        values[name] = values[name] and make_storable(values[name])
    values["keywords"] = values["keywords"] and list(values["keywords"])
    transaction.run("image_descriptions", RECORD_IMAGE, values)


def read_description(connection: Connection, content_hash: str) -> StoredDescription | None:
    """The newest description of an image with this content, whatever its source; ``None`` when it has none."""
    row = connection.exec_driver_sql(DESCRIPTION, {"content_hash": content_hash}).mappings().one_or_none()
    return StoredDescription(**row) if row else None


def read_undescribed_silks(
    connection: Connection,
    racing_day: date,
    *,
    countries: Sequence[str],
    categories: Sequence[str],
    limit: int | None = None,
) -> list[UndescribedSilk]:
    """The silks of a racing day without a description, each once, those of the earliest races first."""
    values = {"racing_day": racing_day, "countries": list(countries), "categories": list(categories), "limit": limit}
    return [UndescribedSilk(**row) for row in connection.exec_driver_sql(UNDESCRIBED_SILKS, values).mappings()]


def find_silk(engine: Engine, entrant_id: str) -> Silk | None:
    """Our copy of the silk of one runner; ``None`` when there is none (yet). Raises ``DatabaseError``."""
    rows = ask_engine(engine, SILKS, entrant_id=entrant_id, race_id=None)
    return _build_silk(rows[0]) if rows else None


def read_silks(engine: Engine, race_id: str) -> dict[str, Silk]:
    """Our copies of the silks of a race by entrant; a runner without one is left out. Raises ``DatabaseError``."""
    rows = ask_engine(engine, SILKS, entrant_id=None, race_id=race_id)
    return {row["entrant_id"]: _build_silk(row) for row in rows}


def _build_silk(row: dict[str, Any]) -> Silk:
    return Silk(entrant_id=row["entrant_id"], image=bytes(row["image"]), title=row["title"])
