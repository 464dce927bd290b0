"""How many polls the largest day has, and how many races fall due at once: by the rules of the cadence alone."""

import statistics
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from benchmarks.saturday.costs import Figure
from benchmarks.saturday.month import find_opening
from benchmarks.saturday.scene import MEETINGS
from raceday_dagster.racing.cadence import GRID, LAST_MINUTES, PolledRace, is_slot
from raceday_dagster.settings import Settings
from raceday_dagster.simulator.day import RaceDay

FOLLOWED = {("NZ", "T"), ("NZ", "H"), ("AUS", "T"), ("AUS", "H")}


def count_polls() -> tuple[int, Iterator[Figure]]:
    """The polls of a day from its load to the end of its last race, and what they mean for each tick."""
    today, far_interval = datetime.now(UTC).date(), Settings.from_environment().far_interval
    day = RaceDay(11, today, meetings=MEETINGS)
    races = [race for race in day.races if (race.meeting.slot.country, race.meeting.slot.category) in FOLLOWED]
    due, live = Counter[datetime](), Counter[datetime]()
    for race in races:
        polled = PolledRace(race_id=race.race_id, start_time=race.starts_at, status="open")
        at, ends_at = find_opening(today), race.abandoned_at or race.starts_at + race.final_after
        while at < ends_at:
            if is_slot(polled, at, far_interval):
                due[at] += 1
                live[at] += race.starts_at - at <= LAST_MINUTES
            at += GRID
    return sum(due.values()), _describe(len(races), due, live)


def _describe(races: int, due: Counter[datetime], live: Counter[datetime]) -> Iterator[Figure]:
    hours = (max(due) - min(due)).total_seconds() / 3_600
    yield Figure("polls of a day by the cadence", f"{sum(due.values()):,} of {races} races in {hours:.1f} h")
    told = f"{statistics.median(due.values()):.0f}, {max(due.values())}; {max(live.values())} in their last minutes"
    yield Figure("races due in a tick: median, most", told)
