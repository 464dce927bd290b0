"""Prices: which the answer carries, and which of them are fit to be kept.

Whether a price is news is the store's question: only it knows the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import get_args

from raceday_dagster.racing.events import Odds, Runner
from raceday_dagster.racing.snapshots import OddsRow, OddsType
from raceday_dagster.transform.rounding import exact, to_hundredths

ODDS_TYPES: tuple[OddsType, ...] = get_args(OddsType)
LOWEST = Decimal(1)
"""A dollar back for a dollar: a place dividend does get there."""
HIGHEST = Decimal(10) ** 8
"""What ``numeric(10,2)`` ends below."""


@dataclass(frozen=True)
class Prices:
    """Prices of a runner with two decimals.

    ``carried`` has a type only if the answer carried it; ``None`` says that there is no price. ``impossible`` counts
    those left out because nobody can be paid them.
    """

    carried: Mapping[OddsType, Decimal | None]
    impossible: int

    def find(self, kind: OddsType) -> Decimal | None:
        """The price, if there is one."""
        return self.carried.get(kind)


def read_prices(odds: Odds) -> Prices:
    """Prices the answer carries; a 0 that slipped through is no price."""
    carried: dict[OddsType, Decimal | None] = {}
    impossible = 0
    for kind in ODDS_TYPES:
        if kind not in odds.model_fields_set:
            continue
        price: Decimal | None = getattr(odds, kind)
        if price is None or price == 0:
            carried[kind] = None
        elif LOWEST <= price < HIGHEST - 1:
            carried[kind] = to_hundredths(exact(price))
        else:
            impossible += 1
    return Prices(carried, impossible)


def list_candidates(runner: Runner, prices: Prices) -> list[OddsRow]:
    """The prices of a runner that exist now, four at most."""
    return [
        OddsRow(entrant_id=runner.entrant_id, type=kind, odds=price)
        for kind, price in prices.carried.items()
        if price is not None
    ]
