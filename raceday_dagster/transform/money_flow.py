"""Who the money is on: the tracker's rows summed per entrant, and the tote pools split by those shares.

The amounts are estimates: a share is of all money on the race, whatever the product, and is applied to each pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from raceday_dagster.racing.events import TrackerRow
from raceday_dagster.racing.snapshots import PoolsRow
from raceday_dagster.transform.rounding import round_half_up, to_hundredths

_EXACT = Context(prec=100)
"""Adds percentages, which the fetch has bounded, without ever rounding."""


class Share(NamedTuple):
    """A part of the money and of the bets, in percent."""

    hold: Fraction
    bet: Fraction


NOTHING = Share(Fraction(0), Fraction(0))


@dataclass(frozen=True)
class RaceMoney:
    """Shares and amounts by entrant id, for the entrants that have tracker rows.

    ``columns`` are those of ``snapshots.MoneyFlowRow`` from ``hold_percentage`` to ``place_pool_percentage``.
    ``total`` is over all rows of the tracker, ``unmatched`` over those of ids that do not run in this race.
    """

    tracked: bool
    columns: Mapping[str, Mapping[str, Any]]
    total: Share = NOTHING
    unmatched: Share = NOTHING


def follow_money(
    entrant_ids: Collection[str], tracker: Iterable[TrackerRow] | None, pools: PoolsRow | None
) -> RaceMoney:
    """Sums the tracker and splits the tote pools; shares are not scaled to add up to 100."""
    rows: defaultdict[str, list[TrackerRow]] = defaultdict(list)
    for row in tracker or ():
        rows[row.entrant_id].append(row)
    shares = {entrant_id: _sum_rows(own) for entrant_id, own in rows.items()}
    return RaceMoney(
        tracked=bool(shares),
        columns={
            entrant_id: _split_pools(share, pools) for entrant_id, share in shares.items() if entrant_id in entrant_ids
        },
        total=_add_up(shares.values()),
        unmatched=_add_up(share for entrant_id, share in shares.items() if entrant_id not in entrant_ids),
    )


def _sum_rows(rows: Iterable[TrackerRow]) -> Share:
    """An entrant's share; in decimals first, which is ten times quicker than in fractions."""
    hold = bet = Decimal(0)
    for row in rows:
        hold, bet = _EXACT.add(hold, row.hold_percentage), _EXACT.add(bet, row.bet_percentage)
    return Share(Fraction(hold), Fraction(bet))


def _add_up(shares: Iterable[Share]) -> Share:
    hold, bet = NOTHING
    for share in shares:
        hold, bet = hold + share.hold, bet + share.bet
    return Share(hold, bet)


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
