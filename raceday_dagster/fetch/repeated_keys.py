"""Objects that name a key twice: every JSON parser takes the last one in silence, we do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from raceday_dagster.fetch.wire_fields import Location


class _Repeated(dict[str, Any]):
    """An object that named a key twice."""

    key: str


def find_repeated_keys(body: bytes) -> list[Location]:
    """Where objects of the JSON ``body`` name a key twice; parsers silently take the last one.

    ``body`` must be valid JSON of bounded depth, as it is once a model has been validated from it.
    """
    repeated: list[_Repeated] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        names = [name for name, _ in pairs]
        marked = _Repeated(found)
        marked.key = next(name for name in names if names.count(name) > 1)
        repeated.append(marked)
        return marked

    # Numbers stay text: nobody reads them here, and the longest ones are refused by the interpreter.
    document = json.loads(body, object_pairs_hook=build, parse_int=str, parse_float=str)
    return list(_locate(document, ())) if repeated else []


def _locate(value: object, location: Location) -> Iterator[Location]:
    if isinstance(value, _Repeated):
        yield (*location, value.key)
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _locate(part, (*location, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _locate(part, (*location, index))
