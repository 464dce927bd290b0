"""The programme: which meetings the day has, and how their races lie in it.

Belongs here: counts, codes, countries, start times, and which race carries which oddity of the real API.
Does not belong here: names, runners, money. Every day has the same programme; the seed decides the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from raceday_dagster.simulator.names import AUS_VENUES, GREYHOUND_VENUES, NZ_VENUES, OTHER_VENUES

FIRST_RACE_CLOCK_H = 11
"""Hour of the New Zealand clock at which an ordinary day begins."""

SIDE_BY_SIDE_GAP_MIN = 30
"""Minutes between two races of a meeting when the meetings run side by side."""


@dataclass(frozen=True)
class Slot:
    """One meeting of the programme. `category` is T, H or G; `opens_min` counts from the day's first race."""

    venue: str
    country: str
    state: str
    category: str
    opens_min: int
    gap_min: int
    races: int
    has_tote: bool = True
    start_type: str = ""


PROGRAMME: tuple[Slot, ...] = (
    Slot(NZ_VENUES[0], "NZ", "NZ", "T", 0, 35, 9),
    Slot(NZ_VENUES[1], "NZ", "NZ", "H", 16, 33, 10, start_type="Mobile"),
    Slot(AUS_VENUES[0], "AUS", "NSW", "T", 52, 36, 9),
    Slot(AUS_VENUES[1], "AUS", "VIC", "H", 121, 34, 9, start_type="Mobile"),
    Slot(NZ_VENUES[2], "NZ", "NZ", "T", 29, 36, 9),
    Slot(AUS_VENUES[2], "AUS", "QLD", "T", 94, 37, 8),
    Slot(AUS_VENUES[3], "AUS", "SA", "T", 111, 38, 8),
    Slot(NZ_VENUES[3], "NZ", "NZ", "H", 345, 31, 9, start_type="Standing"),
    Slot(AUS_VENUES[4], "AUS", "VIC", "T", 207, 36, 9),
    Slot(AUS_VENUES[5], "AUS", "NSW", "H", 393, 34, 9, start_type="Mobile"),
    Slot(AUS_VENUES[6], "AUS", "QLD", "H", 418, 35, 8, start_type="Mobile"),
    Slot(AUS_VENUES[7], "AUS", "WA", "H", 560, 33, 9, start_type="Mobile"),
    Slot(GREYHOUND_VENUES[0], "NZ", "NZ", "G", 43, 19, 12),
    Slot(GREYHOUND_VENUES[1], "AUS", "TAS", "G", 480, 20, 11),
    Slot(OTHER_VENUES[0], "FR", "FR", "T", 610, 32, 7),
    Slot(OTHER_VENUES[1], "TUR", "TUR", "T", 640, 30, 6, has_tote=False),
)

ODDITIES: dict[tuple[int, int], str] = {
    (0, 2): "no_mover",
    (0, 3): "dead_heat",
    (0, 5): "four_runners",
    (0, 7): "protest",
    (2, 4): "dead_heat",
    (4, 6): "abandoned",
    (6, 5): "abandoned",
    (7, 2): "no_mover",
    (8, 3): "four_runners",
}
"""(index in PROGRAMME, race number) -> what that race shows."""


def lay_out_starts(*, side_by_side: bool) -> dict[tuple[int, int], timedelta]:
    """When each race starts after the day's first one, by (index in PROGRAMME, race number).

    An ordinary day is spread from late morning to after midnight, as the real one is. Side by side, the
    first twelve meetings take turns every two or three minutes from the first instant to the last, so that
    there are always five gallops and harness races within about ten minutes; the rest run between them.
    """
    starts = {}
    for index, slot in enumerate(PROGRAMME):
        opens = index % 12 * 5 // 2 + index // 12 if side_by_side else slot.opens_min
        gap = SIDE_BY_SIDE_GAP_MIN if side_by_side else slot.gap_min
        for number in range(1, slot.races + 1):
            starts[index, number] = timedelta(minutes=opens + (number - 1) * gap)
    return starts
