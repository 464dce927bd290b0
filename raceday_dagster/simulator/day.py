"""The racing day: its meetings and races, made from a seed, and the life of a race.

Every day has the same programme (counts, codes, countries, start times, oddities), a larger one repeats it; the seed
decides the rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import cycle, islice
from random import Random
from zoneinfo import ZoneInfo

from raceday_dagster.simulator.names import AUS_VENUES, GREYHOUND_VENUES, NZ_VENUES, OTHER_VENUES, pick_race_name

NEW_ZEALAND = ZoneInfo("Pacific/Auckland")
OPEN, CLOSED, INTERIM, FINAL, ABANDONED = "Open", "Closed", "Interim", "Final", "Abandoned"

_FIRST_RACE_CLOCK_H = 11
"""Hour of the New Zealand clock at which an ordinary day begins."""
_SIDE_BY_SIDE_GAP_MIN = 30
"""Minutes between two races of a meeting when the meetings run side by side."""
_BETTING_ENDS_AFTER = timedelta(seconds=4)
_TRACKS = ("Good4", "Good3", "Soft5", "Good", "Heavy8")
_WEATHERS = ("FINE", "Fine", "Overcast", "SHWRY")


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


@dataclass(frozen=True, eq=False)
class Meeting:
    """One venue, one code, one racing day. `tote_number` is None where only fixed odds are offered."""

    meeting_id: str
    slot: Slot
    racing_day: date
    tote_number: int | None
    track_condition: str
    weather: str
    races: list[Race] = field(default_factory=list)

    @property
    def is_nz(self) -> bool:
        """The API tells more about New Zealand races than about others."""
        return self.slot.country == "NZ"

    @property
    def running_doubles(self) -> list[list[int]]:
        """Pairs of race numbers; a race may end one pair and begin the next."""
        last = self.slot.races
        if not self.is_nz or self.tote_number is None:
            return []
        return [[2, 3], [3, 4], [last - 1, last]]

    @property
    def quaddies(self) -> dict[str, list[int]]:
        """Race numbers of the four-leg bets, by the name of the field in the meetings list."""
        last = self.slot.races
        if self.tote_number is None:
            return {}
        return {"quaddie": list(range(last - 3, last + 1)), "early_quaddie": [1, 2, 3, 4]}


@dataclass(frozen=True, eq=False)
class Race:
    """One race. Instants are UTC; `delay` is how late it really starts; `oddity` is what it shows, or ""."""

    race_id: str
    meeting: Meeting
    number: int
    name: str
    starts_at: datetime
    distance_m: int
    first_prize_dollars: int
    delay: timedelta
    interim_after: timedelta
    final_after: timedelta
    abandoned_at: datetime | None
    oddity: str
    seed: str

    def random(self, topic: str) -> Random:
        """A generator that gives the same numbers for the same race and topic, always."""
        return Random(f"{self.seed}|{topic}")

    @property
    def starts_nz(self) -> datetime:
        """The advertised start on the New Zealand clock."""
        return self.starts_at.astimezone(NEW_ZEALAND)

    @property
    def closes_at(self) -> datetime:
        """Betting ends a few seconds after the real start, which is later than the advertised one."""
        return self.starts_at + self.delay + _BETTING_ENDS_AFTER

    @property
    def interim_at(self) -> datetime:
        """When the first four places are known."""
        return self.closes_at + self.interim_after

    def find_status(self, instant: datetime) -> str:
        """The status the API would give, in its own spelling."""
        if self.abandoned_at is not None and instant >= self.abandoned_at:
            return ABANDONED
        if instant < self.closes_at:
            return OPEN
        if instant < self.interim_at:
            return CLOSED
        return INTERIM if instant < self.starts_at + self.final_after else FINAL

    def find_betting_instant(self, instant: datetime) -> datetime:
        """The instant up to which money has come in: now, or the moment betting ended."""
        return min(instant, self.abandoned_at or self.closes_at)


class RaceDay:
    """A whole racing day, the same for the same arguments.

    racing_day: the label of the day. Races after New Zealand midnight keep it.
    first_start: an aware instant. Without it the day begins at 11:00 in New Zealand and lasts until after
    midnight. With it the first race starts then and the meetings run side by side, so that several races
    are always close. Ids, names, runners and money are the same either way.
    meetings: how many; behind the programme's own it begins again, with other ids.
    """

    def __init__(
        self, seed: int, racing_day: date, first_start: datetime | None = None, meetings: int = len(PROGRAMME)
    ) -> None:
        self.seed = seed
        self.racing_day = racing_day
        self.first_start = (
            first_start or datetime.combine(racing_day, time(_FIRST_RACE_CLOCK_H), NEW_ZEALAND)
        ).astimezone(UTC)
        slots = tuple(islice(cycle(PROGRAMME), meetings))
        starts = _lay_out_starts(slots, side_by_side=first_start is not None)
        self.meetings = [self._make_meeting(index, slot) for index, slot in enumerate(slots)]
        for index, meeting in enumerate(self.meetings):
            for number in range(1, meeting.slot.races + 1):
                meeting.races.append(self._make_race(meeting, index, number, starts[index, number]))
        self.races = sorted(
            (race for meeting in self.meetings for race in meeting.races), key=lambda race: race.starts_at
        )
        self._races_by_id = {race.race_id: race for race in self.races}

    def find_race(self, race_id: str) -> Race | None:
        """The race, or None when the day has no such race."""
        return self._races_by_id.get(race_id)

    def _make_meeting(self, index: int, slot: Slot) -> Meeting:
        key = f"{self.seed}|{self.racing_day}|{index}"
        rng = Random(key)
        return Meeting(
            meeting_id=make_id(rng),
            slot=slot,
            racing_day=self.racing_day,
            tote_number=index + 1 if slot.has_tote else None,
            track_condition=rng.choice(_TRACKS) if slot.has_tote else "",
            weather=rng.choice(_WEATHERS) if slot.has_tote else "",
        )

    def _make_race(self, meeting: Meeting, index: int, number: int, after: timedelta) -> Race:
        key = f"{self.seed}|{self.racing_day}|{index}|{number}"
        rng = Random(key)
        starts_at = self.first_start + after
        oddity = ODDITIES.get((index, number), "")
        distance_m = rng.randrange(1700, 2700, 100) if meeting.slot.category == "H" else rng.randrange(1000, 2400, 50)
        return Race(
            race_id=make_id(rng),
            meeting=meeting,
            number=number,
            name=pick_race_name(rng),
            starts_at=starts_at,
            distance_m=300 + number * 20 if meeting.slot.category == "G" else distance_m,
            first_prize_dollars=rng.randrange(4000, 40000, 500),
            delay=timedelta(seconds=rng.randrange(12, 150)),
            interim_after=timedelta(seconds=rng.randrange(120, 240)),
            final_after=timedelta(seconds=rng.randrange(480, 720)),
            abandoned_at=starts_at - timedelta(minutes=rng.randrange(25, 40)) if oddity == "abandoned" else None,
            oddity=oddity,
            seed=key,
        )


def _lay_out_starts(slots: Sequence[Slot], *, side_by_side: bool) -> dict[tuple[int, int], timedelta]:
    """When each race starts after the day's first one, by (index of its meeting, race number).

    An ordinary day is spread from late morning to after midnight, as the real one is. Side by side, the first twelve
    meetings take turns every two or three minutes, so that there are always five gallops and harness races within
    about ten minutes; the rest run between them.
    """
    starts = {}
    for index, slot in enumerate(slots):
        opens = index % 12 * 5 // 2 + index // 12 if side_by_side else slot.opens_min
        gap = _SIDE_BY_SIDE_GAP_MIN if side_by_side else slot.gap_min
        for number in range(1, slot.races + 1):
            starts[index, number] = timedelta(minutes=opens + (number - 1) * gap)
    return starts


def make_id(rng: Random) -> str:
    """An id in the shape the API uses, from a seeded generator."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
