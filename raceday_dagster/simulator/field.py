"""The field of a race: its runners, who may be scratched, where they start from, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from random import Random

from raceday_dagster.simulator.day import Race, make_id
from raceday_dagster.simulator.names import pick_runner_names

FIELD_SIZES = {"T": (8, 14), "H": (7, 12), "G": (8, 8)}


@dataclass(frozen=True)
class Runner:
    """One runner. `strength` is the logarithm of its chance before any drift; `scratched_at` None = it runs.

    barrier 0 = no gate. `barrier_position` is None except in harness racing.
    """

    entrant_id: str
    number: int
    name: str
    strength: float
    barrier: int
    barrier_position: str | None
    scratched_at: datetime | None
    is_emergency: bool
    is_late_scratched: bool
    is_unpriced: bool
    has_only_alt_silks: bool

    def is_scratched(self, instant: datetime) -> bool:
        """Whether the scratching is known at the instant."""
        return self.scratched_at is not None and instant >= self.scratched_at


@lru_cache(maxsize=512)
def draw_field(race: Race) -> tuple[Runner, ...]:
    """The runners of the race in cloth order, emergencies last."""
    rng = race.random("field")
    category = race.meeting.slot.category
    starters = 4 if race.oddity == "four_runners" else rng.randint(*FIELD_SIZES[category])
    emergencies = rng.choice((0, 2, 3)) if category == "T" and starters > 9 else 0
    names = pick_runner_names(rng, starters + emergencies)
    gates = rng.sample(range(1, starters + 1), starters) + [0] * emergencies
    leaves = _draw_scratchings(rng, race, starters, emergencies)
    # Strengths spread like a real market: one or two short prices and a tail.
    return tuple(
        Runner(
            entrant_id=make_id(rng),
            number=number,
            name=names[number - 1],
            strength=rng.gauss(0.0, 0.75),
            barrier=0 if category == "H" and number in leaves and number % 2 else gates[number - 1],
            barrier_position=_describe_gate(race, gates[number - 1], gone=number in leaves),
            scratched_at=leaves.get(number, (None, False))[0],
            is_emergency=number > starters,
            is_late_scratched=leaves.get(number, (None, False))[1],
            is_unpriced=number not in leaves and rng.random() < 0.04,
            has_only_alt_silks=category == "H" and rng.random() < 0.05,
        )
        for number in range(1, starters + emergencies + 1)
    )


def _draw_scratchings(rng: Random, race: Race, starters: int, emergencies: int) -> dict[int, tuple[datetime, bool]]:
    """Cloth number -> (when, whether late). Emergencies never get a run; at least four starters are left."""
    early = race.starts_at - timedelta(hours=20)
    gone = dict.fromkeys(range(starters + 1, starters + emergencies + 1), (early, False))
    spare = starters - 5
    for number in rng.sample(range(1, starters + 1), max(0, min(2, spare))):
        chance = rng.random()
        if chance < 0.35:
            gone[number] = (race.starts_at - timedelta(hours=rng.randrange(4, 16)), False)
        elif chance < 0.45:
            gone[number] = (race.starts_at - timedelta(minutes=rng.randrange(17, 55)), True)
    return gone


def _describe_gate(race: Race, gate: int, *, gone: bool) -> str | None:
    """Harness only: front row, second row, or (standing starts) how far behind the tape."""
    slot = race.meeting.slot
    if slot.category != "H":
        return None
    if slot.start_type == "Standing":
        return "FT" if gate < 6 else f"{(gate - 5) // 3 * 10 + 10}m"
    if gone:
        return "Fr-"
    return f"Fr{gate}" if gate <= 7 else f"Sr{gate - 7}"
