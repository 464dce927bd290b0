"""Tote pools of a race in cents, from the pools themselves or, once they are gone, from the declared dividends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from raceday_dagster.racing.events import Dividend, TotePool
from raceday_dagster.racing.snapshots import PoolSource, PoolsRow
from raceday_dagster.transform.rounding import to_cents

SINGLE_RACE: Mapping[str, str] = {
    "win": "win_pool_total",
    "place": "place_pool_total",
    "quinella": "quinella_pool_total",
    "trifecta": "trifecta_pool_total",
    "exacta": "exacta_pool_total",
    "firstfour": "first4_pool_total",
    "first4": "first4_pool_total",
}
"""Normalised product name to the column that holds it."""
MULTI_LEG = frozenset({"earlyquadrella", "quadrella", "runningdouble", "treble", "double"})
"""Products that span races: their money is not on this race."""

STARTING_SCORE: Mapping[PoolSource, int] = {"tote_pools": 100, "dividends": 90}
UNKNOWN_PRODUCT_COST = 5
MISSING_POOL_COST = 30
LOW_SCORE = 70


@dataclass(frozen=True)
class Pools:
    """What the answer says about the pools. ``row`` is ``None`` when it says nothing."""

    row: PoolsRow | None
    warnings: tuple[str, ...] = ()


def read_pools(tote_pools: Iterable[TotePool] | None, dividends: Iterable[Dividend] | None) -> Pools:
    """The pools in cents.

    Raises:
        ValueError: A total is not a number this data can hold.
    """
    live = [
        (pool.product_type or "", pool.total)
        for pool in tote_pools or ()
        if pool.total is not None and pool.total >= 0 and (pool.status or "").upper() != "ABANDONED"
    ]
    if any(total > 0 for _, total in live):
        return _sum_pools(live, "tote_pools")
    declared = _declared_pools(dividends or ())
    return _sum_pools(declared.items(), "dividends") if declared else Pools(None)


def _declared_pools(dividends: Iterable[Dividend]) -> dict[str, Decimal]:
    """Pool size by product. A dead heat repeats a product's pool and a final row its interim one: neither adds."""
    sizes: dict[str, dict[bool, Decimal]] = defaultdict(dict)
    for row in dividends:
        if (row.tote or "").upper() != "NZ" or row.pool_size is None or row.pool_size <= 0:
            continue
        product = (row.product_name or "").removeprefix("Pool ")
        is_final = (row.status or "").casefold() == "final"
        sizes[product][is_final] = max(row.pool_size, sizes[product].get(is_final, row.pool_size))
    return {product: by_final[max(by_final)] for product, by_final in sizes.items()}


def _sum_pools(totals: Iterable[tuple[str, Decimal]], source: PoolSource) -> Pools:
    columns: dict[str, int] = defaultdict(int)
    multi_leg = 0
    unknown: set[str] = set()
    for product, total in totals:
        name = "".join(product.casefold().split())
        if column := SINGLE_RACE.get(name):
            columns[column] += to_cents(total)
        elif name in MULTI_LEG:
            multi_leg += to_cents(total)
        else:
            unknown.add(product[:40])
    missing = not (columns.get("win_pool_total") and columns.get("place_pool_total"))
    score = STARTING_SCORE[source] - UNKNOWN_PRODUCT_COST * len(unknown) - MISSING_POOL_COST * missing
    row = PoolsRow(
        **{column: columns.get(column, 0) for column in set(SINGLE_RACE.values())},
        total_race_pool=sum(columns.values()),
        multi_leg_pool_total=multi_leg,
        source=source,
        data_quality_score=max(0, score),
        extracted_pools=len(columns),
    )
    return Pools(row, tuple(f"unknown_pool={product}" for product in sorted(unknown)) + _warn(row))


def _warn(row: PoolsRow) -> tuple[str, ...]:
    warnings = []
    if row.total_race_pool == 0:
        warnings.append("pools_total=0")
    if row.place_pool_total > 2 * row.win_pool_total:
        warnings.append("place_pool_above_twice_win_pool")
    if row.data_quality_score < LOW_SCORE:
        warnings.append(f"pools_score={row.data_quality_score}")
    return tuple(warnings)
