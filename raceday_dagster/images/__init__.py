"""A batch of images, five at once: read, compressed, put at a temporary URL, described by a vision API, cleaned up.

May import the foundation. Must not know Dagster, the database or a race. Importing it needs no extra; describing an
image needs the extra ``images`` (Pillow and the ``openai`` client).
"""

from raceday_dagster.images.batch import describe_images
from raceday_dagster.images.records import Description, ImageBatch, ImageProgress, ImageResult
from raceday_dagster.images.sources import ImageSource, build_silk_source, find_sources

__all__ = [
    "Description",
    "ImageBatch",
    "ImageProgress",
    "ImageResult",
    "ImageSource",
    "build_silk_source",
    "describe_images",
    "find_sources",
]
