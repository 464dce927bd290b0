"""The market of a race: its money and its prices, each a pure function of the race and the instant.

The model is only this simulator's: each runner has a weight that drifts on slow and quick waves, and in the last
minutes money surges to one runner and leaves the favourite.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from functools import lru_cache

from raceday_dagster.simulator.day import Race
from raceday_dagster.simulator.field import Runner, draw_field

SURGE_MIN = 8.0
"""Minutes before the close at which the late money begins."""

_WAVES = ((0.16, 47.0), (0.07, 9.0), (0.025, 2.1))
_POOL_SIZES = {"Win": 1.0, "Place": 0.43, "Quinella": 0.58, "Trifecta": 0.87, "FirstFour": 0.5}
_MULTI_LEG_SIZES = {"EarlyQuadrella": 0.9, "Quadrella": 1.4, "RunningDouble": 0.12, "Treble": 0.1}


class Market:
    """Money and prices of one race. Shares add up to 1 over the runners not scratched at the instant."""

    def __init__(self, race: Race) -> None:
        rng = race.random("market")
        self.race = race
        self.runners = draw_field(race)
        self._waves = {
            runner.number: [(size * rng.uniform(0.4, 1.0), period, rng.uniform(0, math.tau)) for size, period in _WAVES]
            for runner in self.runners
        }
        self._surges = self._place_surges(rng.uniform(0.7, 1.0))
        self._turnover_dollars = rng.uniform(8_000, 60_000) * (1.0 if race.meeting.is_nz else 0.6)

    def shares(self, instant: datetime, *, evenness: float = 0.0) -> dict[int, float]:
        """Share of each runner, by cloth number. `evenness` 0 = the market itself, 1 = all alike."""
        at = self.race.find_betting_instant(instant)
        minutes = self.minutes_left(at)
        ramp = max(0.0, 1.0 - minutes / SURGE_MIN)
        weights = {
            runner.number: math.exp((1.0 - evenness) * self._weigh(runner, minutes, ramp))
            for runner in self.runners
            if not runner.is_scratched(at)
        }
        whole = sum(weights.values())
        return {number: weight / whole for number, weight in weights.items()}

    def fixed_odds(self, instant: datetime) -> dict[int, tuple[float, float]]:
        """Cloth number -> (win, place) at the bookmaker, who looks at the market every half minute. 0 = no price."""
        at = self.race.find_betting_instant(instant)
        return _price_runners(self, math.ceil(self.minutes_left(at) * 2))

    def pool_odds(self, instant: datetime) -> dict[int, tuple[float, float]]:
        """Cloth number -> (win, place) the tote would pay now. Empty before the tote opens or where there is none."""
        at = self.race.find_betting_instant(instant)
        if self.race.meeting.tote_number is None or self.minutes_left(at) > 600:
            return {}
        return {
            number: (max(1.0, math.floor(8.5 / share) / 10), max(1.0, math.floor(2.8 / share**0.85) / 10))
            for number, share in self.shares(at, evenness=0.1).items()
        }

    def pool_total(self, product: str, instant: datetime) -> float:
        """Dollars and cents in a tote pool: it never shrinks, and grows fastest just before the close."""
        size = _POOL_SIZES.get(product) or _MULTI_LEG_SIZES[product]
        minutes = self.minutes_left(self.race.find_betting_instant(instant))
        grown = 0.72 * math.exp(-minutes / 6.0) + 0.28 * math.exp(-minutes / 150.0)
        return round(self._turnover_dollars * size * grown, 2)

    def minutes_left(self, at: datetime) -> float:
        """Minutes until betting ends; never negative."""
        return max(0.0, (self.race.closes_at - at).total_seconds() / 60)

    def _weigh(self, runner: Runner, minutes: float, ramp: float) -> float:
        drift = sum(
            size * math.sin(math.tau * minutes / period + phase) for size, period, phase in self._waves[runner.number]
        )
        return runner.strength + drift + self._surges.get(runner.number, 0.0) * ramp

    def _place_surges(self, force: float) -> dict[int, float]:
        """Late money: to the third best of the runners that start, away from the best."""
        starters = [runner for runner in self.runners if runner.scratched_at is None]
        ranked = sorted(starters, key=lambda runner: -runner.strength)
        return {ranked[2].number: force, ranked[0].number: -0.4 * force}


@lru_cache(maxsize=4096)
def _price_runners(market: Market, half_minutes: int) -> dict[int, tuple[float, float]]:
    at = market.race.closes_at - timedelta(seconds=half_minutes * 30)
    has_place = len(market.runners) >= 5
    prices = {}
    for number, share in market.shares(at, evenness=0.05).items():
        prices[number] = _offer(0.86 / share, has_place=has_place)
    for runner in market.runners:
        if runner.is_unpriced:
            prices[runner.number] = (0.0, 0.0)
        elif runner.is_scratched(at):
            # The API goes on showing the price a scratched runner had.
            prices[runner.number] = _offer(4.0 * math.exp(-runner.strength), has_place=has_place)
    return prices


@lru_cache(maxsize=512)
def open_market(race: Race) -> Market:
    """The market of a race, built once."""
    return Market(race)


def _offer(price: float, *, has_place: bool) -> tuple[float, float]:
    """Win and place prices on the ladder a bookmaker uses: fine steps when short, coarse when long."""
    price = min(max(price, 1.04), 151.0)
    step = 0.02 if price < 2 else 0.05 if price < 4 else 0.1 if price < 8 else 0.5 if price < 20 else 1
    win = round(round(price / step) * step, 2)
    return win, round(1 + (win - 1) * 0.27, 2) if has_place else 0.0
