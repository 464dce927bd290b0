"""Faults on demand: rules that say which request is broken, how and how often.

pauses       latency (ms), hold (timeout_s): then the request is served, or meets the next rule
replies      status (code, retry_after), html, garbage
contents     old_answer (age_s): of an event
vision       refusal (text), huge (bytes): of the vision API alone
wire         drip_body (bytes_per_s), truncated, reset
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "latency": {"ms": 1000.0},
    "hold": {"timeout_s": 20.0},
    "status": {"code": 503, "retry_after": ""},
    "html": {},
    "garbage": {},
    "old_answer": {"age_s": 3600.0},
    "huge": {"bytes": 6_000_000},
    "drip_body": {"bytes_per_s": 10.0},
    "truncated": {},
    "reset": {},
    "refusal": {"text": "I'm sorry, I cannot help with that."},
}
"""Kind -> its parameters with their defaults."""

PAUSES = frozenset({"latency", "hold"})
WIRE = frozenset({"drip_body", "truncated", "reset"})


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

    def add(self, kind: str, match: str = "", times: int | None = None, **params: Any) -> FaultRule:
        """Add a rule; what `params` lacks has its default. FaultError when the kind or a parameter is unknown."""
        if kind not in KINDS:
            raise FaultError(f"unknown kind {kind!r}; one of {', '.join(sorted(KINDS))}")
        if unknown := params.keys() - KINDS[kind].keys():
            raise FaultError(f"{kind} has no parameter {', '.join(unknown)}; it has {sorted(KINDS[kind])}")
        self._added += 1
        rule = FaultRule(f"fault-{self._added}", match, kind, {**KINDS[kind], **params}, times)
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
