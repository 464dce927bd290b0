"""A simulated vision API: chat completions about an image that it really fetches.

Belongs here: reading such a request, fetching its image, inventing a description. Does not belong here: the racing API.

An answer is a function of the image's bytes and of nothing else. The faults of `faults` work here too, their `match`
being a part of `VISION_PATH`; two more say what the model answers, `answer` (text) and `refusal` (text).
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from hashlib import sha256
from random import Random
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

VISION_PATH = "/vision/v1"
_COMPLETIONS = VISION_PATH + "/chat/completions"
_FETCH_TIMEOUT_S = 10.0
_KINDS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}

_ADJECTIVES = ("bright", "silken", "striped", "quartered", "elegant", "bold", "vivid", "classic", "festive", "polished")
_SUBJECTS = ("jacket", "jockey's colours", "racing silks", "riding shirt", "painted pattern", "coloured design")
_PLACES = ("against a clean white background", "in even studio light", "seen from the front", "in sharp focus")
_WORDS = re.findall(
    r"\w+",
    "silks jockey racing horse race track turf colours jacket cap sleeve stripe hoop sash quarter pattern fabric satin "
    "sport competition rider stable owner uniform tradition bright bold vivid white background isolated front design "
    "graphic costume fashion textile clothing event derby gallop harness speed paddock winner champion finish festival",
)


async def describe_asked_image(request: Request, kind: str, params: dict[str, Any]) -> Response:
    """The answer to a chat completion, with the faults `status`, `huge` and `refusal`."""
    if kind == "status":
        return _refuse(params["code"], "simulated fault")
    if kind == "huge":
        return _complete({"content": "." * params["bytes"]})
    if kind == "refusal":
        return _complete({"content": None, "refusal": params["text"]})
    if request.method != "POST" or request.url.path != _COMPLETIONS:
        return _refuse(404, "not found")
    try:
        url = _find_image_url(await request.json())
    except (ValueError, KeyError, TypeError, StopIteration):
        return _refuse(400, "the request holds no image_url")
    try:
        image = await asyncio.to_thread(_fetch, url)
    except (OSError, ValueError) as error:
        return _refuse(400, f"error while downloading {url}: {error}")
    if not any(image.startswith(magic) for magic in _KINDS):
        return _refuse(400, f"unsupported image at {url}: only {', '.join(_KINDS.values())}")
    return _complete({"content": json.dumps(describe(image))})


def describe(image: bytes) -> dict[str, Any]:
    """A title, keywords and a category for an image, always the same for the same bytes."""
    rng = Random(sha256(image).digest())
    first, second = rng.sample(_ADJECTIVES, 2)
    title = f"{first.capitalize()} and {second} {rng.choice(_SUBJECTS)} of a racing day {rng.choice(_PLACES)}"
    return {"title": title, "keywords": rng.sample(_WORDS, rng.randint(30, 40)), "category": rng.randint(1, 21)}


def _find_image_url(question: Mapping[str, Any]) -> str:
    parts = (part for message in question["messages"] for part in message["content"])
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    if not re.match(r"https?://", url):
        raise ValueError(url)
    return str(url)


def _fetch(url: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=_FETCH_TIMEOUT_S) as answer:
        return bytes(answer.read())


def _complete(message: Mapping[str, Any]) -> Response:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    payload = {"id": "simulated", "object": "chat.completion", "created": 0, "model": "simulated", "choices": [choice]}
    return JSONResponse(payload)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "simulated"}}, status)
