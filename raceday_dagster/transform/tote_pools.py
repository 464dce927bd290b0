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
MULTI_LEG_COLUMN = "multi_leg_pool_total"

STARTING_SCORE: Mapping[PoolSource, int] = {"tote_pools": 100, "dividends": 90}
UNKNOWN_PRODUCT_COST = 5
MISSING_POOL_COST = 30
LOW_SCORE = 70


@dataclass(frozen=True)
class PoolTotals:
    """What the answer says about the pools. ``row`` is ``None`` when it says nothing."""

    row: PoolsRow | None
    warnings: tuple[str, ...] = ()


def read_pools(tote_pools: Iterable[TotePool] | None, dividends: Iterable[Dividend] | None) -> PoolTotals:
    """The pools in cents."""
    live: list[tuple[str, Decimal]] = []
    abandoned: list[str] = []
    for pool in tote_pools or ():
        if (pool.status or "").upper() == "ABANDONED":
            abandoned.append(pool.product_type or "")
        elif pool.total is not None and pool.total >= 0:
            live.append((pool.product_type or "", pool.total))
    if any(total > 0 for _, total in live):
        return _sum_pools(live, "tote_pools", abandoned)
    declared = _declared_pools(dividends or ())
    return _sum_pools(declared.items(), "dividends", abandoned) if declared else PoolTotals(None)


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


def _sum_pools(totals: Iterable[tuple[str, Decimal]], source: PoolSource, abandoned: Iterable[str]) -> PoolTotals:
    columns: dict[str, int] = defaultdict(int)
    unknown: set[str] = set()
    for product, total in totals:
        if column := _find_column(product):
            columns[column] += to_cents(total)
        else:
            unknown.add(product[:40])
    single = [cents for column, cents in columns.items() if column != MULTI_LEG_COLUMN]
    emptied = {column: 0 for product in abandoned if (column := _find_column(product))}
    row = PoolsRow(
        **{**emptied, **columns},
        total_race_pool=sum(single),
        source=source,
        data_quality_score=_score(columns, source, len(unknown)),
        extracted_pools=len(single),
    )
    return PoolTotals(row, tuple(f"unknown_pool={product}" for product in sorted(unknown)) + _warn(row))


def _find_column(product: str) -> str | None:
    """Where a product's money belongs; ``None`` for one nobody knows."""
    name = "".join(product.casefold().split())
    return MULTI_LEG_COLUMN if name in MULTI_LEG else SINGLE_RACE.get(name)


def _score(columns: Mapping[str, int], source: PoolSource, unknown: int) -> int:
    missing = sum(not columns.get(column) for column in ("win_pool_total", "place_pool_total"))
    if missing == 2:
        return 0
    return max(0, STARTING_SCORE[source] - UNKNOWN_PRODUCT_COST * unknown - MISSING_POOL_COST * missing)


def _warn(row: PoolsRow) -> tuple[str, ...]:
    warnings = []
    if row.total_race_pool == 0:
        warnings.append("pools_total=0")
    if row.place_pool_total > 2 * row.win_pool_total:
        warnings.append("place_pool_above_twice_win_pool")
    if row.data_quality_score < LOW_SCORE:
        warnings.append(f"pools_score={row.data_quality_score}")
    return tuple(warnings)
