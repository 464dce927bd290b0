"""Faults on demand: rules that say which request is broken, how and how often, and what a broken answer says.

pauses       latency (ms), hold (timeout_s): then the request is served, or meets the next rule
replies      status (code, retry_after), redirect (location, code), html, garbage
contents     nan (field), wrong_type (field, value), missing_race, data_error (message), nul, hostile,
             duplicate_keys, old_answer (age_s), huge (bytes), gzip_bomb (bytes)
vision       answer (text), refusal (text): of the vision API alone
wire         drip_body (bytes_per_s), drip_headers (bytes_per_s), truncated, reset
"""

from __future__ import annotations

import asyncio
import copy
import gzip
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "latency": {"ms": 1000.0},
    "hold": {"timeout_s": 20.0},
    "status": {"code": 503, "retry_after": ""},
    "redirect": {"location": "/elsewhere", "code": 302},
    "html": {},
    "garbage": {},
    "nan": {"field": ""},
    "wrong_type": {"field": "", "value": "not a number"},
    "missing_race": {},
    "data_error": {"message": "the event could not be loaded"},
    "nul": {},
    "hostile": {},
    "duplicate_keys": {},
    "old_answer": {"age_s": 3600.0},
    "huge": {"bytes": 6_000_000},
    "gzip_bomb": {"bytes": 50_000_000},
    "drip_body": {"bytes_per_s": 10.0},
    "drip_headers": {"bytes_per_s": 10.0},
    "truncated": {},
    "reset": {},
    "answer": {"text": ""},
    "refusal": {"text": "I'm sorry, I cannot help with that."},
}
"""Kind -> its parameters with their defaults; what is given is read as the default's type."""

PAUSES = frozenset({"latency", "hold"})
WIRE = frozenset({"drip_body", "drip_headers", "truncated", "reset"})
HTML = b"<!doctype html><html><head><title>Down for maintenance</title></head><body>Back soon.</body></html>"
GARBAGE = b'{"header": {"title": "Event'
_HOSTILE_NAMES = (
    "Robert'); DROP TABLE entrants; --",
    "x" * 10_000,
    "%s %(name)s {0} ${HOME} $1",
    '" onload="alert(1)<script>alert(1)</script>',
    "\u202eesroH \U0001f40e \\u0000 \\",
)


class FaultError(ValueError):
    """A rule that cannot be understood; the text says what is wrong with it."""


@dataclass
class FaultRule:
    """One rule. `match` is a part of the path; `times` None = for ever; `fired` counts the requests it met."""

    rule_id: str
    match: str
    kind: str
    params: dict[str, Any]
    times: int | None = None
    fired: int = 0
    waiting: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def meets(self, path: str) -> bool:
        """Whether a request for the path is to be broken by this rule now."""
        is_spent = self.released.is_set() or (self.times is not None and self.fired >= self.times)
        return self.match in path and not is_spent


class FaultBook:
    """The rules in force, in the order they were added."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []
        self._added = 0

    def add(self, wish: Mapping[str, Any]) -> FaultRule:
        """Add a rule from `{"match", "kind", "times"?, ...parameters}`. FaultError when it makes no sense."""
        wish = dict(wish)
        match, kind, times = wish.pop("match", ""), wish.pop("kind", None), wish.pop("times", None)
        if not isinstance(match, str) or not isinstance(kind, str):
            raise FaultError("a rule needs a kind, and match must be text")
        if times is not None and (not isinstance(times, int) or times < 1):
            raise FaultError(f"times must be a whole number from 1, or null: {times!r}")
        params = _read_params(kind, wish)
        self._added += 1
        rule = FaultRule(f"fault-{self._added}", match, kind, params, times)
        self._rules.append(rule)
        return rule

    def take(self, path: str) -> list[FaultRule]:
        """The rules a request meets, counted as fired: pauses in order, and at most one of another kind, last."""
        taken: list[FaultRule] = []
        for rule in self._rules:
            if rule.meets(path):
                rule.fired += 1
                taken.append(rule)
                if rule.kind not in PAUSES:
                    break
        return taken

    def describe(self) -> list[dict[str, Any]]:
        """All rules as JSON, with their counters."""
        return [
            {"id": rule.rule_id, "match": rule.match, "kind": rule.kind, "fired": rule.fired, "waiting": rule.waiting}
            for rule in self._rules
        ]

    def release(self) -> int:
        """Let every held request go and hold no more; the number that were waiting."""
        held = [rule for rule in self._rules if rule.kind == "hold"]
        waiting = sum(rule.waiting for rule in held)
        for rule in held:
            rule.released.set()
        return waiting

    def clear(self) -> None:
        """Forget all rules; held requests go on."""
        self.release()
        self._rules.clear()


def _read_params(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a kind: the given ones, and the defaults for the rest. FaultError when one is unknown."""
    if kind not in KINDS:
        raise FaultError(f"unknown kind {kind!r}; one of {', '.join(sorted(KINDS))}")
    params = dict(KINDS[kind])
    for name, value in given.items():
        if name not in params:
            raise FaultError(f"{kind} has no parameter {name!r}; it has {sorted(params)}")
        try:
            params[name] = type(params[name])(value)
        except (TypeError, ValueError) as error:
            raise FaultError(f"{kind}: {name} cannot be {value!r}") from error
    if params.get("bytes_per_s", 1) <= 0:
        raise FaultError(f"{kind}: the number must be positive")
    return params


def break_payload(kind: str, params: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """A copy of the payload with the fault in it; the payload itself for kinds that do not touch contents."""
    if kind not in ("nan", "wrong_type", "missing_race", "data_error", "nul", "hostile"):
        return payload
    broken = copy.deepcopy(payload)
    data: dict[str, Any] = broken["data"]
    if kind in ("nan", "wrong_type"):
        usual = "runners.0.odds.fixed_win" if "runners" in data else "meetings.0.races.0.distance"
        _set_at(data, params["field"] or usual, params.get("value", float("nan")))
    elif kind == "missing_race":
        data.pop("race", None)
    elif kind == "data_error":
        data["error"] = params["message"]
    else:
        names = ("Nul\x00Name",) if kind == "nul" else _HOSTILE_NAMES
        for row, name in zip(data.get("runners") or data.get("meetings") or (), names, strict=False):
            row["name"] = name
    return broken


def break_body(kind: str, params: dict[str, Any], body: bytes) -> bytes:
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


def _set_at(data: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a dotted path. FaultError where the path leads nowhere."""
    *way, last = path.split(".")
    place: Any = data
    try:
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        place[last] = value
    except (LookupError, TypeError, ValueError) as error:
        raise FaultError(f"this answer has no field {path}") from error
