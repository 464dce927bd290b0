"""A clock that was set (a resumed virtual machine, a time server's step): noticed, and what it left ahead dated back.

Dagster runs no sensor whose last tick lies ahead, after any restart, and its daemon sleeps by the clock it had. Races
would not be polled, and look as if they were, until the clock has caught up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import SecretStr

from raceday_dagster.service.dagster_instance import ask_within
from raceday_dagster.service.health import describe_age
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.future import TOLERANCE, put_back_rows

PUT_BACK_WITHIN_S = 5.0
NAMES = {"race_polls": "polls", "batches": "batches", "races": "answers"}


class WallClock:
    """Tells when the wall clock was set, by a clock that nobody sets."""

    def __init__(
        self,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._utc_now = utc_now
        self._monotonic = monotonic
        self._began = self._read_offset()

    def read_step(self) -> timedelta:
        """How far it was set since this was last asked: below zero if back, zero if by less than ``TOLERANCE``."""
        before, self._began = self._began, self._read_offset()
        step = self._began - before
        return step if abs(step) >= TOLERANCE else timedelta(0)

    def _read_offset(self) -> datetime:
        return self._utc_now() - timedelta(seconds=self._monotonic())


def put_back_all(
    instance: dg.DagsterInstance,
    database_url: SecretStr,
    say: Callable[[str], None],
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Dates what lies ahead of the clock in both databases to now, and says so in one line if there was any.

    To be called while no daemon runs, which would write what it still knows.
    """

    def put_back() -> dict[str, int]:
        now = utc_now()
        found = put_back_ticks(instance, now)
        engine = build_engine(database_url, pool_max=1)
        try:
            found |= {NAMES[table]: number for table, number in put_back_rows(engine, now).items()}
        finally:
            engine.dispose()
        return {name: number for name, number in found.items() if number}

    found = ask_within(PUT_BACK_WITHIN_S, put_back)
    if found is None:
        say("whether anything is stored ahead of the clock could not be looked at: a database does not answer")
    elif found:
        what = ", ".join(f"{number} {name}" for name, number in found.items())
        say(f"the clock ran ahead: {what} lay in the future and count as of now; polling goes on")


def put_back_ticks(instance: dg.DagsterInstance, now: datetime) -> dict[str, int]:
    """Dates the state and the ticks of sensors and schedules that lie ahead of ``now`` back to it; how many."""
    now_s, latest_s = now.timestamp(), (now + TOLERANCE).timestamp()
    found: Counter[str] = Counter()
    for state in instance.all_instigator_state():
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=latest_s):
            data = tick.tick_data
            instance.update_tick(tick._replace(tick_data=data.with_status(data.status, timestamp=now_s)))
            found["ticks"] += 1
        fields = state.instigator_data._asdict() if state.instigator_data else {}
        ahead: dict[str, Any] = {
            name: now_s for name, value in fields.items() if name.endswith("_timestamp") and (value or 0) > latest_s
        }
        if state.instigator_data and ahead:
            instance.update_instigator_state(state.with_data(state.instigator_data._replace(**ahead)))
            found["sensors or schedules"] += 1
    return found


def describe_step(step: timedelta) -> str:
    """``went back by 10 min``."""
    return f"{'went back' if step < timedelta(0) else 'jumped ahead'} by {describe_age(abs(step))}"
