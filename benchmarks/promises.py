"""What a live day full of faults must have kept, judged from the ledger, the tables and what was left over."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from benchmarks.cadence import SLOT_S, LiveRace, Outage, Poll, choose_interval, judge
from benchmarks.live_day import HALF_RACES, LiveDay

FALSE_COUNTS = """
SELECT race.race_id FROM races AS race
LEFT JOIN (
    SELECT race_id, sum(money_flow_history_rows) AS flow, sum(odds_history_rows) AS odds
    FROM race_polls WHERE status = 'success' GROUP BY race_id
) AS told USING (race_id)
WHERE coalesce(told.flow, 0) <> (SELECT count(*) FROM money_flow_history AS row WHERE row.race_id = race.race_id)
    OR coalesce(told.odds, 0) <> (SELECT count(*) FROM odds_history AS row WHERE row.race_id = race.race_id)
"""
FALSE_SUMS = """
SELECT entrant.race_id || ' ' || entrant.name AS runner
FROM entrants AS entrant
JOIN (
    SELECT entrant_id, sum(incremental_win_amount) AS win, sum(incremental_place_amount) AS place
    FROM money_flow_history GROUP BY entrant_id
) AS flow USING (entrant_id)
WHERE flow.win IS DISTINCT FROM entrant.win_pool_amount OR flow.place IS DISTINCT FROM entrant.place_pool_amount
"""
STUCK_RUNS = """
SELECT run_id || ' ' || status AS run FROM runs
WHERE status IN ('STARTING', 'STARTED', 'CANCELING') AND create_timestamp < :before
"""
RUN_LASTS = timedelta(minutes=2)
"""A batch under faults takes less."""


@dataclass(frozen=True)
class Fault:
    """Something that was broken on purpose.

    Attributes:
        kind: Its name.
        proof: What shows that it fired.
        outage: From its begin until everything must work again.
        may_fail: Whether polls may fail meanwhile; where not, every one of them must succeed.
    """

    kind: str
    proof: str
    outage: Outage
    may_fail: bool


@dataclass(frozen=True)
class Promise:
    """Something that was promised, how often it was checked, and where it was broken."""

    name: str
    checked: str
    broken: Sequence[str]


def check_tables(day: LiveDay, faults: Sequence[Fault], began_at: datetime, ended_at: datetime) -> list[Promise]:
    """The promises about polls, rows and runs; call it while the day is up."""
    races, batches = day.read_races(), day.read_batches()
    polls = [poll for poll in day.read_polls() if poll.polled_at >= began_at]
    verdict = judge(races, polls, batches, ended_at, [fault.outage for fault in faults])
    excused = [fault.outage for fault in faults if fault.may_fail]
    lost = [
        f"{poll.race_id} at {poll.polled_at:%H:%M:%S}: {poll.reason}"
        for poll in polls
        if poll.status == "failed"
        and not any(outage.began_at <= poll.polled_at <= outage.ended_at for outage in excused)
    ]
    (totals,) = day.ask(
        "SELECT (SELECT count(*) FROM entrants) AS entrants, (SELECT count(*) FROM money_flow_history) AS flow"
    )
    live = f"{verdict.polls} polls of {verdict.races} races"
    stuck = day.ask(STUCK_RUNS, "DAGSTER_PG_URL", before=(ended_at - RUN_LASTS).replace(tzinfo=None))
    return [
        Promise("no poll missed beyond what a fault excuses", live, verdict.missed),
        Promise("no poll made twice", live, verdict.twice),
        Promise("no poll failed but while the API or the database was broken", f"{len(polls)} polls", lost),
        Promise("no half race", f"{len(races)} races", [row["race_id"] for row in day.ask(HALF_RACES)]),
        Promise(
            "as many rows of history as the ledger says",
            f"{totals['flow']} rows of money flow",
            [row["race_id"] for row in day.ask(FALSE_COUNTS)],
        ),
        Promise(
            "increments add up to the present amount",
            f"{totals['entrants']} entrants",
            [row["runner"] for row in day.ask(FALSE_SUMS)],
        ),
        Promise("no run without an end", f"{len(batches)} live batches", [row["run"] for row in stuck]),
    ]


def find_late_polls(races: Iterable[LiveRace], polls: Sequence[Poll], faults: Sequence[Fault]) -> Mapping[str, float]:
    """By kind of fault: the longest gap across one of a race that was due every 15 seconds, in seconds.

    A gap counts for the newest fault that had begun when it ended.
    """
    starts = {race.race_id: race.start_time for race in races}
    longest: dict[str, float] = {}
    in_order = sorted(polls, key=lambda poll: (poll.race_id, poll.polled_at))
    for earlier, later in pairwise(in_order):
        if earlier.race_id != later.race_id:
            continue
        begun = [fault for fault in faults if fault.outage.began_at <= later.polled_at]
        is_near = choose_interval(starts[later.race_id] - earlier.polled_at) == timedelta(seconds=SLOT_S)
        if begun and is_near and begun[-1].outage.measure_overlap(earlier.polled_at, later.polled_at):
            gap_s = (later.polled_at - earlier.polled_at).total_seconds()
            longest[begun[-1].kind] = max(longest.get(begun[-1].kind, 0.0), gap_s)
    return longest


def check_left_over(processes: Mapping[int, str], folder: Path, temporary: Path) -> list[Promise]:
    """The promises about what an orderly stop leaves: no process, no socket and nothing temporary."""
    files = [*temporary.iterdir(), *(path for path in folder.rglob("*") if path.is_socket())]
    return [
        Promise("no process left", "after the stop", [f"{pid} {command}" for pid, command in processes.items()]),
        Promise("no temporary file and no socket left", "after the stop", [str(path) for path in files]),
    ]
