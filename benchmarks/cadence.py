"""Whether every race was polled when it should have been: a judgement on the ledger that knows nothing of the sensor.

Pure. The rule is the interval by time to the start, with a tolerance; what is judged is the gap between two polls.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

SLOT_S = 15
TOLERANCE = timedelta(seconds=2)
"""Beyond the interval: a launch, and the races that are fetched before this one."""
LAST_MINUTES = timedelta(minutes=5)
NEAR = timedelta(minutes=15)
OVER = {"final", "abandoned"}


@dataclass(frozen=True)
class Poll:
    """A line of the ledger."""

    run_id: str
    race_id: str
    polled_at: datetime
    committed_at: datetime
    status: str
    reason: str = ""


@dataclass(frozen=True)
class LiveRace:
    """A stored race and how it stands in the end."""

    race_id: str
    start_time: datetime
    status: str


@dataclass(frozen=True)
class Batch:
    """A run of the live lane."""

    run_id: str
    status: str
    due_at: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    race_ids: tuple[str, ...] = ()
    """Races it was to poll."""


@dataclass(frozen=True)
class Outage:
    """A time in which something was down on purpose: a gap may be longer by as much, and no longer."""

    began_at: datetime
    ended_at: datetime

    def measure_overlap(self, earlier: datetime, later: datetime) -> timedelta:
        """How much of the time between two instants it takes."""
        return max(timedelta(0), min(later, self.ended_at) - max(earlier, self.began_at))


@dataclass
class Verdict:
    """What was found."""

    polls: int = 0
    races: int = 0
    most_live_at_once: int = 0
    last_minutes_gaps_s: list[float] = field(default_factory=list)
    outage_gaps_s: list[float] = field(default_factory=list)
    """Of the same races, while something was down."""
    lags_s: list[float] = field(default_factory=list)
    """From due to committed, races in their last five minutes or started."""
    far_lags_s: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def judge(
    races: Iterable[LiveRace],
    polls: Sequence[Poll],
    batches: Iterable[Batch],
    ended_at: datetime,
    outages: Sequence[Outage] = (),
) -> Verdict:
    """Judges the polls of the live lane until ``ended_at``.

    A race counts from its first poll in the lane: before, it was not stored.
    """
    due_at = {batch.run_id: batch.due_at for batch in batches}
    starts = {race.race_id: race for race in races}
    live: Mapping[str, list[Poll]] = defaultdict(list)
    for poll in sorted(polls, key=lambda poll: poll.polled_at):
        if poll.run_id in due_at:
            live[poll.race_id].append(poll)
    verdict = Verdict(polls=sum(map(len, live.values())), races=len(live))
    verdict.failed = [f"{poll.race_id} {poll.reason}" for poll in polls if poll.status == "failed"]
    for race_id, own in live.items():
        _judge_race(verdict, starts[race_id], own, ended_at, outages)
        for earlier, later in pairwise(own):
            # By when they were due: an answer that takes ten seconds arrives in the slot of the next poll.
            slots = {due_at[poll.run_id].timestamp() // SLOT_S for poll in (earlier, later)}
            if len(slots) == 1:
                verdict.twice.append(f"{race_id} at {later.polled_at:%H:%M:%S}")
        for poll in own:
            lag_s = (poll.committed_at - due_at[poll.run_id]).total_seconds()
            is_near = starts[race_id].start_time - due_at[poll.run_id] <= LAST_MINUTES
            (verdict.lags_s if is_near else verdict.far_lags_s).append(lag_s)
    near = Counter(
        poll.run_id
        for own in live.values()
        for poll in own
        if starts[poll.race_id].start_time - poll.polled_at <= LAST_MINUTES
    )
    verdict.most_live_at_once = max(near.values(), default=0)
    return verdict


def choose_interval(time_to_start: timedelta) -> timedelta:
    """The rule."""
    if time_to_start <= LAST_MINUTES:
        return timedelta(seconds=15)
    return timedelta(seconds=30) if time_to_start <= NEAR else timedelta(seconds=60)


def _judge_race(
    verdict: Verdict, race: LiveRace, polls: Sequence[Poll], ended_at: datetime, outages: Sequence[Outage]
) -> None:
    for earlier, later in pairwise(polls):
        gap = later.polled_at - earlier.polled_at
        interval = choose_interval(race.start_time - earlier.polled_at)
        excused = _excuse(outages, earlier.polled_at, later.polled_at)
        if interval == timedelta(seconds=SLOT_S):
            (verdict.outage_gaps_s if excused else verdict.last_minutes_gaps_s).append(gap.total_seconds())
        if gap > interval + TOLERANCE + excused:
            verdict.missed.append(f"{race.race_id}: {gap.total_seconds():.1f} s after {earlier.polled_at:%H:%M:%S}")
    last = polls[-1].polled_at
    patience = choose_interval(race.start_time - last) + TOLERANCE + _excuse(outages, last, ended_at)
    if race.status not in OVER and ended_at - last > patience:
        verdict.missed.append(f"{race.race_id}: silent since {last:%H:%M:%S}")


def _excuse(outages: Sequence[Outage], earlier: datetime, later: datetime) -> timedelta:
    return sum((outage.measure_overlap(earlier, later) for outage in outages), timedelta(0))
