"""Who the money is on: the tracker's rows summed per entrant, and the pools split by those shares.

The amounts are estimates: a share is of all money on the race, whatever the product, and is applied to each pool.
The table of a race's shares is a pandas one of Python fractions: exact at any size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from raceday_dagster.racing.events import TrackerRow
from raceday_dagster.racing.snapshots import PoolsRow
from raceday_dagster.transform.rounding import exact, round_half_up, to_hundredths

SHARE_LIMIT = 10_000
"""Percent; what ``numeric(6,2)`` ends below."""
ZERO = Fraction(0)


class Share(NamedTuple):
    """An entrant's part of the money and of the bets, in percent: the sum of its tracker rows."""

    entrant_id: str
    hold: Fraction
    bet: Fraction


@dataclass(frozen=True)
class MoneyFlow:
    """Shares and amounts by entrant id, for the entrants that have tracker rows.

    ``columns`` are those of ``snapshots.MoneyFlowRow`` from ``hold_percentage`` to ``place_pool_percentage``. The
    totals are over all rows of the tracker; unmatched are those of ids that do not run in this race.
    """

    tracked: bool
    columns: Mapping[str, Mapping[str, Any]]
    hold_total: Fraction = ZERO
    bet_total: Fraction = ZERO
    unmatched_hold: Fraction = ZERO
    unmatched_bet: Fraction = ZERO


def follow_money(
    entrant_ids: Collection[str], tracker: Iterable[TrackerRow] | None, pools: PoolsRow | None
) -> MoneyFlow:
    """Sums the tracker and splits the pools; shares are not scaled to add up to 100.

    Raises:
        ValueError: A share, or a sum of shares, is not a number this data can hold.
    """
    rows = [(row.entrant_id, exact(row.hold_percentage), exact(row.bet_percentage)) for row in tracker or ()]
    if not rows:
        return MoneyFlow(tracked=False, columns={})
    table = pd.DataFrame(rows, columns=["entrant_id", "hold", "bet"], dtype=object)
    shares = [Share(*row) for row in table.groupby("entrant_id").sum().itertuples()]
    if any(abs(percentage) >= SHARE_LIMIT for share in shares for percentage in (share.hold, share.bet)):
        raise ValueError("the money tracker's shares are not percentages")
    unmatched = [share for share in shares if share.entrant_id not in entrant_ids]
    return MoneyFlow(
        tracked=True,
        columns={share.entrant_id: _split_pools(share, pools) for share in shares if share.entrant_id in entrant_ids},
        hold_total=sum((share.hold for share in shares), ZERO),
        bet_total=sum((share.bet for share in shares), ZERO),
        unmatched_hold=sum((share.hold for share in unmatched), ZERO),
        unmatched_bet=sum((share.bet for share in unmatched), ZERO),
    )


def _split_pools(share: Share, pools: PoolsRow | None) -> dict[str, Any]:
    known = {} if pools is None else pools.carried()
    win, place = known.get("win_pool_total"), known.get("place_pool_total")
    # The sum of the pools is split on its own: the two rounded amounts may add up to a cent more.
    both = None if win is None or place is None else win + place
    win_amount, place_amount = _part(win, share.hold), _part(place, share.hold)
    return {
        "hold_percentage": to_hundredths(share.hold),
        "bet_percentage": to_hundredths(share.bet),
        "win_pool_amount": win_amount,
        "place_pool_amount": place_amount,
        "total_pool_amount": _part(both, share.hold),
        "win_pool_percentage": _percentage(win_amount, win),
        "place_pool_percentage": _percentage(place_amount, place),
    }


def _part(pool_cents: int | None, share: Fraction) -> int | None:
    return None if pool_cents is None else round_half_up(pool_cents * share / 100)


def _percentage(amount_cents: int | None, pool_cents: int | None) -> Decimal | None:
    return None if amount_cents is None or not pool_cents else to_hundredths(Fraction(100 * amount_cents, pool_cents))
