"""Simulated silks: real images, always the same."""

from __future__ import annotations

import io

from PIL import Image

from raceday_dagster.simulator.silks import draw_silk


def test_a_silk_is_a_png_of_its_size_on_a_transparent_ground() -> None:
    image = Image.open(io.BytesIO(draw_silk("95bd6ff7/3", 64)))
    image.load()
    assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGBA")
    assert image.getpixel((1, 1))[3] == 0
    assert image.getpixel((32, 32))[3] == 255


def test_the_same_url_has_the_same_silk_and_runners_differ() -> None:
    assert draw_silk.__wrapped__("95bd6ff7/3", 64) == draw_silk.__wrapped__("95bd6ff7/3", 64)
    assert len({draw_silk(f"95bd6ff7/{number}", 64) for number in range(1, 13)}) > 8
