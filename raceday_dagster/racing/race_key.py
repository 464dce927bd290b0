"""The name of a race as a partition: a person can read it, it sorts by day, and the race can be found by it again.

``2026-11-26 Te Rimu Downs R05 95bd6ff7``: racing day, meeting, race number, and the first characters of the race's id,
which alone tell it from others of that day. A bare race id, as partitions were named once, is understood too.
"""

from __future__ import annotations

import re
from datetime import date

from raceday_dagster.racing.records import Record

ID_START = 8
LONGEST_MEETING = 40

_KEY = re.compile(r"(\d{4}-\d\d-\d\d) .* R\d+ ([0-9A-Za-z-]{1,8})")


class RaceKey(Record):
    """What the name of a race says; the meeting's name and the number may have changed since."""

    racing_day: date
    id_start: str


def build_race_key(racing_day: date, meeting_name: str, race_number: int, race_id: str) -> str:
    """The name of a race; its id alone where that begins with other characters than letters, digits and hyphens."""
    id_start = race_id[:ID_START]
    meeting = " ".join(re.sub(r"[^\w '&.-]", " ", meeting_name).split())[:LONGEST_MEETING].rstrip()
    key = f"{racing_day} {meeting} R{race_number:02} {id_start}"
    return key if _KEY.fullmatch(key) else race_id


def parse_race_key(key: str) -> RaceKey | None:
    """What a readable name says; ``None`` for a bare race id."""
    match = _KEY.fullmatch(key)
    try:
        return RaceKey(racing_day=date.fromisoformat(match[1]), id_start=match[2]) if match else None
    except ValueError:
        return None


def read_id_start(key: str) -> str:
    """The first characters of the race's id, whichever of the two names ``key`` is. Races of one day differ in them;
    of two days, two may agree."""
    named = parse_race_key(key)
    return named.id_start if named else key[:ID_START]
