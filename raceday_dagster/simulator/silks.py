"""Simulated silks: a small PNG for each URL under `SILKS_PATH`, always the same for the same URL.

Belongs here: drawing and serving them. Does not belong here: which runner has which URL (`form`).
No image library: a PNG of flat colours is a header and a compressed list of rows.
"""

from __future__ import annotations

import re
import struct
import zlib
from functools import lru_cache
from random import Random

from starlette.requests import Request
from starlette.responses import Response

SILKS_PATH = "/silks"
INVENTED_HOST = b"https://silks.simulator.invalid"
"""How the wire format names the host of the silks before anybody knows where the simulator listens."""

_NAME = re.compile(r"(?P<stem>[\w/-]+?)(?:_(?:alt_)?(?P<side>64|128)x(?P=side))?\.png")
_COLOURS = ((245, 245, 240), (16, 122, 87), (24, 38, 92), (190, 30, 76), (222, 178, 40), (20, 20, 24), (235, 120, 30))


async def serve_silk(request: Request) -> Response:
    """The PNG of a path below `SILKS_PATH`; 404 for what is no such name."""
    found = _NAME.fullmatch(request.path_params["name"])
    if found is None:
        return Response(status_code=404)
    return Response(draw_silk(found["stem"], int(found["side"] or 256)), media_type="image/png")


@lru_cache(maxsize=1024)
def draw_silk(stem: str, side: int) -> bytes:
    """A jacket in two colours under a cap, on a transparent ground, `side` pixels wide and high."""
    rng = Random(stem)
    body, mark, cap = rng.sample(_COLOURS, 3)
    pattern = rng.choice(("hoops", "stripes", "quarters", "sash"))
    rows = bytearray()
    for y in range(side):
        rows.append(0)  # no filter
        for x in range(side):
            rows += bytes(_paint(x / side, y / side, body, mark, cap, pattern))
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)  # 8 bits of red, green, blue and opacity
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(rows), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_pack_chunk(kind, content) for kind, content in chunks)


_Colour = tuple[int, int, int]


def _paint(x: float, y: float, body: _Colour, mark: _Colour, cap: _Colour, pattern: str) -> tuple[int, int, int, int]:
    if (x - 0.5) ** 2 + (y - 0.16) ** 2 < 0.018:
        return (*cap, 255)
    in_trunk = 0.3 < y < 0.95 and 0.28 < x < 0.72
    in_sleeves = 0.32 < y < 0.6 and 0.08 < x < 0.92
    if not in_trunk and not in_sleeves:
        return 0, 0, 0, 0
    marked = {
        "hoops": int(y * 10) % 2 == 0,
        "stripes": int(x * 10) % 2 == 0,
        "quarters": (x < 0.5) == (y < 0.6),
        "sash": abs(x - y + 0.1) < 0.09,
    }[pattern]
    return (*(mark if marked else body), 255)


def _pack_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
