"""Faults on demand: rules that say which request is spoilt, how, and how often.

Belongs here: the kinds of fault, their parameters, the rules, and which of them a request meets.
Does not belong here: doing it (`sabotage` spoils what is said, `delivery` how it is sent).

    pauses       latency (ms), hold (timeout_s): then the request is served, or meets the next rule
    replies      status (code, retry_after), redirect (location, code), html, garbage
    contents     nan (field), wrong_type (field, value), missing_race, data_error (message), nul, hostile,
                 duplicate_keys, old_answer (age_s), huge (bytes), gzip_bomb (bytes)
    vision       answer (text), refusal (text): of the vision API alone
    wire         drip_body (bytes_per_s), drip_headers (bytes_per_s), truncated, reset
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
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
"""Kind -> its parameters with their defaults; a parameter given as text is read as the default's type."""

PAUSES = frozenset({"latency", "hold"})


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
        """Whether a request for the path is to be spoilt by this rule now."""
        is_spent = self.released.is_set() or (self.times is not None and self.fired >= self.times)
        return self.match in path and not is_spent

    def describe(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {
            "id": self.rule_id,
            "match": self.match,
            "kind": self.kind,
            "params": self.params,
            "times": self.times,
            "fired": self.fired,
            "waiting": self.waiting,
        }


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
        params = read_params(kind, wish)
        self._added += 1
        rule = FaultRule(f"fault-{self._added}", match, kind, params, times)
        self._rules.append(rule)
        return rule

    def take(self, path: str, header: str | None) -> list[FaultRule]:
        """The rules a request meets, counted as fired: pauses in order, and at most one of another kind, last."""
        rules = [parse_header(header)] if header else [rule for rule in self._rules if rule.meets(path)]
        taken: list[FaultRule] = []
        for rule in rules:
            rule.fired += 1
            taken.append(rule)
            if rule.kind not in PAUSES:
                break
        return taken

    def describe(self) -> list[dict[str, Any]]:
        """All rules as JSON, with their counters."""
        return [rule.describe() for rule in self._rules]

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


def parse_header(text: str) -> FaultRule:
    """A rule for one request from `kind;key=value;...`; `kind=value` sets the kind's first parameter."""
    head, *rest = (part.strip() for part in text.split(";"))
    kind, _, first = head.partition("=")
    params = dict(part.split("=", 1) for part in rest if "=" in part)
    if first:
        params[next(iter(KINDS.get(kind, {})), "value")] = first
    return FaultRule("header", "", kind, read_params(kind, params), times=1)


def read_params(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a kind: the given ones, and the defaults for the rest. FaultError when one is unknown."""
    if kind not in KINDS:
        raise FaultError(f"unknown kind {kind!r}; one of {', '.join(sorted(KINDS))}")
    params = dict(KINDS[kind])
    for name, value in given.items():
        if name not in params:
            raise FaultError(f"{kind} has no parameter {name!r}; it has {sorted(params)}")
        try:
            params[name] = type(params[name])("" if value is None else value)
        except (TypeError, ValueError) as error:
            raise FaultError(f"{kind}: {name} cannot be {value!r}") from error
    if params.get("bytes_per_s", 1) <= 0 or params.get("bytes", 0) < 0:
        raise FaultError(f"{kind}: the number must be positive")
    return params
