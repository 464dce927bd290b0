"""When a race is due for a poll. Pure: the caller brings the stored races, the polls in flight and the clock.

All polls lie on one grid of 15 s, so that races due at the same time share a run and gaps do not drift. A race is due
at its slots: every 15 s, 30 s, 60 s or more of the grid, each of them also a slot of every shorter interval, so that a
gap is never longer than the interval it began with. Only instants count; what a clock on a wall shows does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from raceday_dagster.racing.events import TERMINAL_STATUSES
from raceday_dagster.racing.records import Record

GRID = timedelta(seconds=15)
LAST_MINUTES = timedelta(minutes=5)
NEAR = timedelta(minutes=15)
FAR = timedelta(minutes=65)
MINUTE = timedelta(minutes=1)
LOOK_BACK = timedelta(hours=2)
"""A race that is not over two hours after its start is left to the backfill."""
LOOK_AHEAD = timedelta(hours=24)
INTERVALS_WITHOUT_ANSWER = 3
"""After so many intervals without a new answer a live race is an alert, whatever the reason."""
CLAIM_LASTS = timedelta(minutes=2)
"""An older run that has not ended has lost its races: it is stuck or its process is gone. It is still at work."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PolledRace(Record):
    """A stored race as the schedule sees it. Both poll times are of our own clock, from the ledger."""

    race_id: str
    start_time: datetime
    status: str
    last_poll_time: datetime | None = None
    """The newest poll that is not later than now."""
    newest_poll_time: datetime | None = None
    """The newest poll of all: later than now if our clock went back."""


class LiveBatch(Record):
    """A run that polls races and has not ended, as far as is known."""

    run_id: str
    race_ids: tuple[str, ...]
    created_at: datetime


class PollsInFlight(Record):
    """The batches believed to be at work, and their races that have no answer yet."""

    batches: int
    race_ids: frozenset[str]


class PollPlan(Record):
    """What to poll at an instant, and when to look again."""

    race_ids: tuple[str, ...]
    """The races due, the earliest start first."""
    due_at: datetime | None
    """When the last of them falls due; ``None`` without any."""
    next_due_at: datetime | None
    """When the next of the other races falls due; always later than the plan's horizon."""
    watched: int
    """Races in the polling window that are not over."""
    in_flight: int
    """Of them, those that are due but whose poll is in flight."""


def choose_interval(time_to_start: timedelta, far_interval: timedelta = MINUTE) -> timedelta:
    """Time between two polls of a race: 15 s in the last five minutes and until it is over, 30 s up to fifteen
    minutes before the start, 60 s up to 65 minutes before it, and ``far_interval``, whole minutes, beyond."""
    if time_to_start <= LAST_MINUTES:
        return timedelta(seconds=15)
    if time_to_start <= NEAR:
        return timedelta(seconds=30)
    return MINUTE if time_to_start <= FAR else far_interval


def is_without_answer(start_time: datetime, answered_at: datetime | None, now: datetime) -> bool:
    """Whether a live race has had no new answer for ``INTERVALS_WITHOUT_ANSWER``, or never had one."""
    if answered_at is None:
        return True
    # A race that has just entered its last five minutes was due at the slower cadence until then. An answer from the
    # future is none: our clock ran ahead when it came.
    return abs(now - answered_at) > INTERVALS_WITHOUT_ANSWER * choose_interval(start_time - answered_at)


def is_candidate(race: PolledRace, now: datetime) -> bool:
    """Whether the race is polled at all: not over, and its start within the window, by instant and not by date."""
    return race.status not in TERMINAL_STATUSES and now - LOOK_BACK < race.start_time < now + LOOK_AHEAD


def floor_to_grid(instant: datetime) -> datetime:
    """The last point of the grid that is not later than ``instant``."""
    return EPOCH + (instant - EPOCH) // GRID * GRID


def is_slot(race: PolledRace, instant: datetime, far_interval: timedelta = MINUTE) -> bool:
    """Whether a race is polled at a point of the grid. Where its interval is longer than the grid, the race's id says
    at which points: races that start late are spread over the minute instead of meeting at its beginning."""
    return _count_points_to_slot(race, instant, choose_interval(race.start_time - instant, far_interval)) == 0


def _count_points_to_slot(race: PolledRace, instant: datetime, interval: timedelta) -> int:
    points = interval // GRID
    phase = zlib.crc32(race.race_id.encode("utf-8", "surrogatepass"))
    return (phase - (instant - EPOCH) // GRID) % points


def find_next_slot(race: PolledRace, after: datetime, far_interval: timedelta = MINUTE) -> datetime:
    """The first slot of a race that is later than ``after``."""
    point = floor_to_grid(after) + GRID
    while True:
        interval = choose_interval(race.start_time - point, far_interval)
        slot = point + _count_points_to_slot(race, point, interval) * GRID
        if slot == point or choose_interval(race.start_time - slot, far_interval) == interval:
            return slot
        point += GRID  # the interval gets shorter on the way there, so an earlier point may be a slot


def find_due_time(race: PolledRace, now: datetime, far_interval: timedelta = MINUTE) -> datetime:
    """When a race falls or fell due: at its first slot after its last poll, however long ago that is: what was missed
    is made up for by one poll. A race never polled is due at once."""
    if race.last_poll_time is None or race.last_poll_time > now:
        return now
    return find_next_slot(race, race.last_poll_time, far_interval)


def find_in_flight(batches: Iterable[LiveBatch], answered: Collection[tuple[str, str]], now: datetime) -> PollsInFlight:
    """What is at work at ``now``.

    Args:
        batches: Runs that have not ended.
        answered: Pairs of run and race that the ledger has.
        now: Read after both, so that it is not earlier than any poll they know of.
    """
    # After a clock went back, a run from the future must not hold its races, nor a place among the batches, until then.
    at_work = [batch for batch in batches if batch.created_at - now < CLAIM_LASTS]
    waiting = {
        race_id
        for batch in at_work
        if now - batch.created_at < CLAIM_LASTS
        for race_id in batch.race_ids
        if (batch.run_id, race_id) not in answered
    }
    return PollsInFlight(batches=len(at_work), race_ids=frozenset(waiting))


def plan_polls(
    races: Iterable[PolledRace],
    in_flight: Collection[str],
    now: datetime,
    horizon: timedelta = timedelta(0),
    *,
    far_interval: timedelta = MINUTE,
    is_loading: bool = False,
) -> PollPlan:
    """Which races to poll now, and when the next falls due.

    Args:
        races: From the ledger at ``now``.
        in_flight: Ids of races whose poll has been asked for and has no answer yet; they are left out.
        now: The clock the ledger is written by.
        horizon: Races that fall due within it count as due.
        far_interval: Time between two polls of races more than 65 minutes away, whole minutes.
        is_loading: A racing day is being loaded, which polls each of its races once: a race never polled is left to
            that, unless it starts within fifteen minutes.
    """
    watched = [race for race in races if is_candidate(race, now)]
    due: list[tuple[datetime, PolledRace]] = []
    later: list[datetime] = []
    held = 0
    for race in watched:
        if is_loading and race.last_poll_time is None and race.start_time - now > NEAR:
            continue
        due_at = find_due_time(race, now, far_interval)
        if race.race_id in in_flight and due_at <= now + horizon:
            held += 1
            due_at = find_next_slot(race, now + horizon, far_interval)
        if not is_candidate(race, max(due_at, now)):
            continue
        if due_at <= now + horizon:
            due.append((due_at, race))
        else:
            later.append(due_at)
    ordered = sorted((race.start_time, race.race_id) for _due_at, race in due)
    return PollPlan(
        race_ids=tuple(race_id for _start, race_id in ordered),
        due_at=max((due_at for due_at, _race in due), default=None),
        next_due_at=min(later, default=None),
        watched=len(watched),
        in_flight=held,
    )
