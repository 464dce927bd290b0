"""An image made small enough to send: upright, on white, at most 1024 x 1024, a progressive JPEG; and a small
copy of it, to show. Needs Pillow."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from raceday_dagster.errors import ImageError
from raceday_dagster.images.records import ImageFacts

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
BOX = (1024, 1024)
QUALITY = 85
MIN_SIDE = 8
PREVIEW_BOX = (64, 64)
PREVIEW_QUALITY = 80
MAX_PIXELS = 80_000_000
"""320 MB once decoded; below the number at which Pillow itself begins to warn."""
_DEEP_GREY = {"I;16", "I;16B", "I;16L", "I"}
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken files; there is no common class."""

# Pillow warns of broken metadata, which is not sent, and of large images before it can be asked how large they are.
warnings.filterwarnings("ignore", module=r"PIL\.")


def compress(data: bytes) -> tuple[bytes, ImageFacts]:
    """The JPEG of an image file's first frame, without its metadata, and what it was made of.

    Raises:
        ImageError: Stage "compress", never retryable: no image, not one of ``FORMATS``, broken, too small, too large.
    """
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _refuse("not a JPEG, PNG, WebP or GIF image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refuse(f"more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except _BROKEN as error:
        raise _refuse(f"broken: {_describe(error)}") from error
    with opened:
        _check_size(opened.size)
        try:
            size_before, small = _fit(opened)
        except _BROKEN as error:
            raise _refuse(f"broken or cut short: {_describe(error)}") from error
    jpeg, preview = io.BytesIO(), io.BytesIO()
    _put_on_white(small).save(jpeg, "JPEG", quality=QUALITY, progressive=True, optimize=True)
    size_after = small.size
    small.thumbnail(PREVIEW_BOX, Image.Resampling.LANCZOS)
    small.save(preview, "WEBP", quality=PREVIEW_QUALITY)
    facts = ImageFacts(
        content_hash=hashlib.sha256(data).hexdigest(),
        bytes_before=len(data),
        bytes_after=jpeg.tell(),
        size_before=size_before,
        size_after=size_after,
        preview=preview.getvalue(),
    )
    return jpeg.getvalue(), facts


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _refuse(f"{width} x {height} is more than {MAX_PIXELS // 1_000_000} million pixels")
    if min(size) < MIN_SIDE:
        raise _refuse(f"{width} x {height} pixels are too few to describe: at least {MIN_SIDE} x {MIN_SIDE}")


def _fit(opened: ImageFile.ImageFile) -> tuple[tuple[int, int], Image.Image]:
    """The upright size before, and the image inside the box, RGB or RGBA."""
    before = opened.size
    opened.draft("RGB", BOX)  # a JPEG is decoded at a fraction of its size at once, never below the box
    opened.load()
    image: Image.Image = opened
    if image.mode in _DEEP_GREY:
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode not in {"RGB", "RGBA", "L"}:
        image = image.convert("RGBA" if image.mode in {"LA", "La", "PA", "RGBa"} else "RGB")
    image.thumbnail(BOX, Image.Resampling.LANCZOS)
    upright = ImageOps.exif_transpose(image)
    if image.size != upright.size:
        before = (before[1], before[0])
    return before, upright if upright.mode == "RGBA" else upright.convert("RGB")


def _put_on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _refuse(message: str) -> ImageError:
    return ImageError(message, stage="compress")


def _describe(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
