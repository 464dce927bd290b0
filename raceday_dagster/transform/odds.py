"""Prices: which the answer carries, and which of them are fit to be kept.

Whether a price is news is the store's question: only it knows the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, get_args

from raceday_dagster.racing.events import Odds
from raceday_dagster.racing.snapshots import OddsType
from raceday_dagster.transform.rounding import to_hundredths

ODDS_TYPES: tuple[OddsType, ...] = get_args(OddsType)
LOWEST = Decimal(1)
"""A dollar back for a dollar: a place dividend does get there."""


class Prices(NamedTuple):
    """Prices of a runner with two decimals.

    ``carried`` has a type only if the answer carried it; ``None`` says that there is no price. ``impossible`` counts
    those left out because nobody can be paid them.
    """

    carried: Mapping[OddsType, Decimal | None]
    impossible: int


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
        elif price >= LOWEST:
            carried[kind] = to_hundredths(Fraction(price))
        else:
            impossible += 1
    return Prices(carried, impossible)
