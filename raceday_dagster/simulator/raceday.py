"""The racing day: its meetings and races, made from a seed.

Belongs here: what is fixed about a day before anything runs. Does not belong here: runners (`fields`),
money (`market`), the wire format (`payloads`, `listings`).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from raceday_dagster.simulator.names import pick_race_name
from raceday_dagster.simulator.programme import FIRST_RACE_CLOCK_H, ODDITIES, PROGRAMME, Slot, lay_out_starts

NEW_ZEALAND = ZoneInfo("Pacific/Auckland")

_TRACKS = ("Good4", "Good3", "Soft5", "Good", "Heavy8")
_WEATHERS = ("FINE", "Fine", "Overcast", "SHWRY")


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


class RaceDay:
    """A whole racing day, the same for the same arguments.

    racing_day: the label of the day. Races after New Zealand midnight keep it.
    first_start: an aware instant. Without it the day begins at 11:00 in New Zealand and lasts until after
    midnight. With it the first race starts then and the meetings run side by side, so that several races
    are always close. Ids, names, runners and money are the same either way. ValueError when it is naive.
    """

    def __init__(self, seed: int, racing_day: date, first_start: datetime | None = None) -> None:
        if first_start is not None and first_start.tzinfo is None:
            raise ValueError(f"first_start needs a time zone: {first_start.isoformat()}")
        self.seed = seed
        self.racing_day = racing_day
        self.first_start = (
            first_start or datetime.combine(racing_day, time(FIRST_RACE_CLOCK_H), NEW_ZEALAND)
        ).astimezone(UTC)
        starts = lay_out_starts(side_by_side=first_start is not None)
        self.meetings = [self._make_meeting(index, slot) for index, slot in enumerate(PROGRAMME)]
        for index, meeting in enumerate(self.meetings):
            for number in range(1, meeting.slot.races + 1):
                meeting.races.append(self._make_race(meeting, index, number, starts[index, number]))
        self.races = sorted(
            (race for meeting in self.meetings for race in meeting.races), key=lambda race: race.starts_at
        )
        self._races_by_id = {race.race_id: race for race in self.races}
        self._meetings_by_id = {meeting.meeting_id: meeting for meeting in self.meetings}

    def find_race(self, race_id: str) -> Race | None:
        """The race, or None when the day has no such race."""
        return self._races_by_id.get(race_id)

    def find_meeting(self, meeting_id: str) -> Meeting | None:
        """The meeting, or None when the day has no such meeting."""
        return self._meetings_by_id.get(meeting_id)

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


def make_id(rng: Random) -> str:
    """An id in the shape the API uses, from a seeded generator."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
