"""Images of every kind, and what is none."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable

import pytest
from PIL import Image

from raceday_dagster.errors import ImageError
from raceday_dagster.images.compress import compress
from raceday_dagster_tests.unit.images.fakes import draw


def save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def open_jpeg(data: bytes) -> Image.Image:
    jpeg, facts = compress(data)
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert (facts.bytes_before, facts.bytes_after, facts.size_after) == (len(data), len(jpeg), image.size)
    return image


def is_near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return all(abs(here - there) < 12 for here, there in zip(image.getpixel(at), colour, strict=True))


def test_a_large_image_fits_inside_the_box_and_keeps_its_shape() -> None:
    data = draw(3000, 1500, "navy", "JPEG")
    assert open_jpeg(data).size == (1024, 512)
    assert compress(data)[1].size_before == (3000, 1500)


def test_a_small_image_is_not_enlarged() -> None:
    assert open_jpeg(draw(64, 64)).size == (64, 64)


def test_the_small_copy_is_a_webp_that_stays_transparent_and_stays_small() -> None:
    noise = Image.frombytes("RGB", (600, 300), random.Random(1).randbytes(600 * 300 * 3))
    for image, mode, size in (
        (Image.new("RGBA", (128, 128), (255, 0, 0, 0)), "RGBA", (64, 64)),
        (noise, "RGB", (64, 32)),
        (Image.new("RGB", (20, 10), "teal"), "RGB", (20, 10)),
    ):
        preview = compress(save(image))[1].preview
        shown = Image.open(io.BytesIO(preview))
        assert (shown.format, shown.mode, shown.size) == ("WEBP", mode, size)
        assert len(preview) < 6_000


def test_a_transparent_image_stands_on_white() -> None:
    for image in (Image.new("RGBA", (40, 40), (255, 0, 0, 0)), Image.new("LA", (40, 40), (0, 0))):
        assert is_near(open_jpeg(save(image)), (20, 20), (255, 255, 255))


def test_a_palette_with_a_transparent_colour_stands_on_white() -> None:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 20, 40))
    shown = open_jpeg(save(image, transparency=0))
    assert is_near(shown, (32, 20), (255, 255, 255))
    assert is_near(shown, (8, 20), (0, 0, 200))


def test_an_animated_gif_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_near(open_jpeg(data), (20, 20), (254, 0, 0))


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    assert is_near(open_jpeg(save(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG")), (20, 20), (254, 0, 0))


def test_a_16_bit_grey_image_is_scaled_not_cut_off() -> None:
    assert is_near(open_jpeg(save(Image.new("I;16", (40, 40), 32_768))), (20, 20), (128, 128, 128))


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_an_image_that_is_rotated_by_its_metadata_is_sent_upright(kind: str, options: dict[str, object]) -> None:
    image = Image.new("RGB", (60, 40), "red")
    image.paste((0, 0, 255), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    data = save(image, kind, exif=exif, **options)
    shown = open_jpeg(data)
    assert shown.size == (40, 60)
    assert is_near(shown, (20, 5), (0, 0, 254)), "what was left is on top"
    assert compress(data)[1].size_before == (40, 60)
    assert not shown.getexif(), "metadata is not sent: it may say where a photograph was taken"


def test_the_same_bytes_have_the_same_hash_and_the_same_jpeg() -> None:
    assert compress(draw()) == compress(draw())
    assert compress(draw())[1].content_hash != compress(draw(colour="red"))[1].content_hash


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A small file that claims to be enormous."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (draw(1, 1), "1 x 1 pixels are too few to describe"),
        (draw(900, 2), "900 x 2 pixels are too few to describe"),
        (bomb(20_000, 20_000), "more than 80 million pixels"),
        (bomb(12_000, 10_000), "more than 80 million pixels"),
        (bomb(9_300, 9_000), "9300 x 9000 is more than 80 million pixels"),
        (b"hello, I am called photo.jpg", "not a JPEG, PNG, WebP or GIF image"),
        (save(Image.new("RGB", (40, 40)), "BMP"), "not a JPEG, PNG, WebP or GIF image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG, WebP or GIF image"),
        (draw(400, 300, kind="JPEG")[:1200], "broken or cut short: "),
        (draw(400, 300)[:-60], "broken or cut short: "),
        (bomb(3_000, 3_000), "broken or cut short: "),
    ],
)
def test_what_cannot_be_described_is_one_line(data: bytes, complaint: str) -> None:
    with pytest.raises(ImageError) as caught:
        compress(data)
    assert caught.value.message.startswith(complaint)
    assert "\n" not in caught.value.message
    assert (caught.value.stage, caught.value.retryable) == ("compress", False)


def spoil(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt[: rng.randint(1, len(spoilt))] if rng.random() < 0.4 else spoilt)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: draw(120, 90, kind="JPEG"),
        lambda: draw(120, 90),
        lambda: draw(120, 90, kind="GIF"),
        lambda: draw(120, 90, kind="WEBP"),
        lambda: save(Image.effect_noise((90, 60), 50).convert("RGB"), "JPEG", exif=Image.Exif()),
    ],
    ids=["jpeg", "png", "gif", "webp", "noise"],
)
def test_a_spoilt_image_is_compressed_or_refused_and_nothing_else(make: Callable[[], bytes]) -> None:
    rng, whole = random.Random(7), make()
    outcomes = Counter(try_to_compress(spoil(whole, rng)) for _ in range(250))
    assert set(outcomes) == {"compressed", "refused"}, "both were tried"


def try_to_compress(data: bytes) -> str:
    try:
        compress(data)
    except ImageError:
        return "refused"
    return "compressed"
