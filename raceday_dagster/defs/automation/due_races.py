"""One tick of the sensor `due_races`: looks ahead, sleeps until just before races fall due, asks for a run of them.

What belongs here: the order in which things are read, slept and decided. What does not: the decisions themselves
(``racing.cadence``), and Dagster's and the database's side of it (``sensors``).
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import dagster as dg

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.cadence import (
    LAST_MINUTES,
    MINUTE,
    LiveBatch,
    PolledRace,
    PollPlan,
    PollsInFlight,
    choose_interval,
    find_in_flight,
    floor_to_grid,
    plan_polls,
)

DUE_TAG = "raceday/due_at"
LEAD = timedelta(seconds=0.75)
"""How early a run is asked for: the launch takes most of it, and the run waits for the rest (`select_races`)."""
HORIZON = timedelta(seconds=6)
"""How far ahead a tick looks: a little more than the 5 s between two ticks."""
MOST_RACES = 50
"""Races of one run: five at a time, each with a fetch that takes all of its 10 s and a ledger that takes its 2 s, end
within ``CLAIM_LASTS``, so that none is asked for twice while the API gives no answer."""
MOST_TICKS = 4
"""Ticks whose runs are at work at once, those that make no progress included."""
LONGEST_RUN_S = 300
"""Dagster ends a run that takes longer, and its place is free."""


@dataclass(frozen=True)
class Shards:
    """How the races of a tick are divided into runs; what does not fit follows with the next tick."""

    races_per_run: int = MOST_RACES
    runs: int = 1
    """More than one where several machines execute them."""

    @property
    def most_batches(self) -> int:
        """Runs at work at once."""
        return MOST_TICKS * self.runs

    def divide(self, race_ids: Sequence[str], places: int) -> list[list[str]]:
        """The races of each run, dealt in turn: those that start first begin every run.

        Args:
            race_ids: The earliest start first.
            places: For so many more runs.
        """
        most = min(self.runs, places)
        needed = min(-(-len(race_ids) // self.races_per_run), most)
        chosen = race_ids[: most * self.races_per_run]
        return [list(chosen[number::needed]) for number in range(needed)]


@dataclass(frozen=True)
class Runs:
    """What Dagster says of unfinished runs."""

    live: Sequence[LiveBatch]
    is_loading: bool
    """A run of `daily_baseline` is polling its races."""
    lost_keys: Collection[str] = ()
    """Run keys of the newest runs that failed or whose process is gone."""


@dataclass(frozen=True)
class Stored:
    """What the database says."""

    races: Sequence[PolledRace]
    answered: Collection[tuple[str, str]]
    read_at: datetime
    far_interval: timedelta = MINUTE


class Reader(Protocol):
    """Where a tick looks. Both keep nothing open; what cannot be read raises, for an empty answer would be a lie."""

    def read_runs(self) -> Runs:
        """Unfinished runs of the live lane, and of `daily_baseline`."""
        ...

    def read_stored(self, asked: Mapping[str, Collection[str]]) -> Stored:
        """The races in the polling window, and which of those ``asked`` for, by run, the ledger has."""
        ...


def request_due_races(
    reader: Reader, shards: Shards, *, sleep: Callable[[float], None]
) -> list[dg.RunRequest] | dg.SkipReason:
    """One tick: runs of all races that are due, or fall due within ``HORIZON``; else why there is none."""
    patience = HORIZON
    while True:
        stored = reader.read_stored({})
        plan = plan_polls(stored.races, (), stored.read_at, LEAD, far_interval=stored.far_interval)
        if plan.race_ids:
            # Only now is it worth asking Dagster. Runs first, the ledger second, the clock last: what ends in between
            # is then seen as in flight or as polled, never as neither.
            runs = reader.read_runs()
            stored = reader.read_stored({batch.run_id: batch.race_ids for batch in runs.live})
            in_flight = find_in_flight(runs.live, stored.answered, stored.read_at)
            plan = plan_polls(
                stored.races,
                in_flight.race_ids,
                stored.read_at,
                LEAD,
                far_interval=stored.far_interval,
                is_loading=runs.is_loading,
            )
            if plan.race_ids:
                return request_batches(plan, in_flight, stored, runs.lost_keys, shards)
        if plan.next_due_at is None or plan.next_due_at - stored.read_at > patience:
            return dg.SkipReason(explain_nothing(plan, stored.read_at))
        ahead = plan.next_due_at - LEAD - stored.read_at
        sleep(ahead.total_seconds())
        # By what was slept, not by the clock: one that is set back meanwhile must not keep a tick here.
        patience -= ahead


def request_batches(
    plan: PollPlan, in_flight: PollsInFlight, stored: Stored, lost_keys: Collection[str], shards: Shards
) -> list[dg.RunRequest] | dg.SkipReason:
    """Runs of the races of a plan, unless enough runs are at work."""
    log = get_logger()
    # What lasts for an hour is said by every tick, and is a warning in the first of each minute.
    warn = log.warning if timedelta(seconds=stored.read_at.second) < HORIZON else log.info
    counts = {"due": len(plan.race_ids), "in_flight": plan.in_flight, "watched": plan.watched}
    places = shards.most_batches - in_flight.batches
    if places <= 0:
        reason = f"{in_flight.batches} live batches are not over, {shards.most_batches} may be at work at once"
        warn("scheduler_race_skip", reason=reason, **counts)
        return dg.SkipReason(f"{len(plan.race_ids)} races are due, but {reason}")
    batches = shards.divide(plan.race_ids, places)
    due_at = (plan.due_at or stored.read_at).isoformat()
    live = {race.race_id for race in stored.races if race.start_time - stored.read_at - LEAD <= LAST_MINUTES}
    scheduled = [race_id for race_ids in batches for race_id in race_ids]
    report_intervals(stored, scheduled)
    log.info("scheduler_race_scheduled", scheduled=len(scheduled), runs=len(batches), due_at=due_at, **counts)
    if plan.in_flight:
        warn("scheduler_race_skip", reason="the poll before is still in flight", **counts)
    return [
        dg.RunRequest(
            run_key=build_run_key(race_ids, stored, lost_keys),
            run_config=build_run_config(race_ids, due_at, len(live.intersection(race_ids))),
            tags={LANE_TAG: LIVE, DUE_TAG: due_at, "dagster/max_runtime": str(LONGEST_RUN_S)},
        )
        for race_ids in batches
    ]


def build_run_config(race_ids: Sequence[str], due_at: str, live_races: int) -> dict[str, Any]:
    """The config of a run of ``process_races``; the first races are the ``live_races``."""
    config = {"race_ids": race_ids, "due_at": due_at, "live_races": live_races}
    return {"ops": {"select_races": {"config": config}}}


def report_intervals(stored: Stored, race_ids: Collection[str]) -> None:
    """One line for each race that is polled at another interval from now on than at its last poll."""
    for race in stored.races:
        if race.race_id not in race_ids or race.last_poll_time is None:
            continue
        old, new = (
            choose_interval(race.start_time - at, stored.far_interval)
            for at in (race.last_poll_time, stored.read_at + LEAD)
        )
        if old != new:
            get_logger(race_id=race.race_id).info(
                "scheduler_interval_changed",
                old=round(old.total_seconds()),
                new=round(new.total_seconds()),
                seconds_to_start=round((race.start_time - stored.read_at).total_seconds()),
            )


def build_run_key(race_ids: Collection[str], stored: Stored, lost_keys: Collection[str]) -> str:
    """What makes a request the same as another: the point of the grid, the races, and how far the ledger had come.

    Dagster never launches a key twice. A tick that is repeated has the same one; the next point of the grid has
    another, though a crash may have left all else as it was; and so has an instant that a clock set back lives through
    a second time, for the ledger already knows polls of later. The races of a lost run that has polled none of them get
    another key once: a batch that kills its process is not launched on and on.
    """
    newest = {race.race_id: race.newest_poll_time for race in stored.races}
    state = "\n".join(f"{race_id} {newest[race_id]}" for race_id in sorted(race_ids))
    digest = hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    key = f"{floor_to_grid(stored.read_at + LEAD):%Y-%m-%dT%H:%M:%SZ} {digest}"
    return f"{key} again" if key in lost_keys else key


def explain_nothing(plan: PollPlan, now: datetime) -> str:
    """Why a tick asked for nothing, for the page of the sensor."""
    if not plan.watched:
        return "No unfinished race starts around now; daily_baseline loads a racing day"
    begin = f"None of {plan.watched} races is due"
    if plan.in_flight:
        begin = f"The polls of {plan.in_flight} of {plan.watched} races are in flight, no other is due"
    if plan.next_due_at is None:
        return begin
    in_s = (plan.next_due_at - now).total_seconds()
    return f"{begin}; the next at {plan.next_due_at:%Y-%m-%dT%H:%M:%SZ}, in {in_s:.0f} s"
