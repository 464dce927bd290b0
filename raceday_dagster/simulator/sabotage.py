"""Spoiling what an answer says.

Belongs here: turning a good payload, or its bytes, into a bad one. Does not belong here: which request it
happens to (`faults`), or how it is sent (`delivery`).
"""

from __future__ import annotations

import copy
import gzip
import io
import re
from functools import lru_cache
from typing import Any

HTML = b"<!doctype html><html><head><title>Down for maintenance</title></head><body>Back soon.</body></html>"
GARBAGE = b'{"header": {"title": "Event'

_HOSTILE_NAMES = (
    "Robert'); DROP TABLE entrants; --",
    "x" * 10_000,
    "%s %(name)s {0} ${HOME} $1",
    '" onload="alert(1)<script>alert(1)</script>',
    "\u202eesroH \U0001f40e \\u0000 \\",
)


def spoil_payload(kind: str, params: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """A copy of the payload with the fault in it; the payload itself for kinds that do not touch contents."""
    if kind not in ("nan", "wrong_type", "missing_race", "data_error", "nul", "hostile"):
        return payload
    spoilt = copy.deepcopy(payload)
    data: dict[str, Any] = spoilt["data"]
    if kind == "nan":
        _set_at(data, params["field"] or _name_number(data), float("nan"))
    elif kind == "wrong_type":
        _set_at(data, params["field"] or _name_number(data), params["value"])
    elif kind == "missing_race":
        data.pop("race", None)
    elif kind == "data_error":
        data["error"] = params["message"]
    else:
        rows = data.get("runners") or data.get("meetings") or data.get("races") or []
        names = ("Nul\x00Name",) if kind == "nul" else _HOSTILE_NAMES
        for row, name in zip(rows, names, strict=False):
            row["name"] = name
    return spoilt


def spoil_body(kind: str, params: dict[str, Any], body: bytes) -> bytes:
    """The bytes with the fault in them; the bytes themselves for other kinds. A gzip bomb comes out compressed."""
    if kind == "duplicate_keys":
        # The true status comes first: a reader that keeps the last one believes the wrong one.
        return re.sub(rb'"status":"\w+"', rb'\g<0>,"status":"Abandoned"', body, count=1)
    if kind == "huge":
        size: int = params["bytes"]
        return body[:-1] + b',"padding":"' + b"x" * size + b'"}'
    if kind == "gzip_bomb":
        return _compress_bomb(body, params["bytes"])
    return body


@lru_cache(maxsize=2)
def _compress_bomb(body: bytes, size: int) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(body[:-1] + b',"padding":"')
        for start in range(0, size, 1_000_000):
            stream.write(b"0" * min(1_000_000, size - start))
        stream.write(b'"}')
    return packed.getvalue()


def _name_number(data: dict[str, Any]) -> str:
    """The number to spoil when the rule names none."""
    if "runners" in data:
        return "runners.0.odds.fixed_win"
    return "meetings.0.races.0.distance" if "meetings" in data else "races.0.number"


def _set_at(data: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a dotted path; nothing happens where the path leads nowhere."""
    *way, last = path.split(".")
    place: Any = data
    for step in way:
        if isinstance(place, list) and step.isdigit() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return
    if isinstance(place, dict):
        place[last] = value
