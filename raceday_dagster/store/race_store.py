"""The door to the database: each call is one transaction on one connection of the pool, or a typed error and nothing.

Shared by all threads of a process. What is written and read stands in ``race_write``, ``day_list``, ``ledger`` and
``queries``; here is only when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine

from raceday_dagster.errors import WriteError
from raceday_dagster.racing.events import RacingDay
from raceday_dagster.racing.outcomes import BatchOutcome, ProcessResult, RowCounts
from raceday_dagster.racing.signals import Thresholds
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store import day_list, images, ledger, race_write, signals
from raceday_dagster.store.decisions import FIRST_YEAR, LAST_YEAR, guess_racing_days, is_racing_day
from raceday_dagster.store.engine import PoolGauge
from raceday_dagster.store.images import StoredImage
from raceday_dagster.store.ledger import PollRun
from raceday_dagster.store.race_write import Poll, WriteReport
from raceday_dagster.store.schema.partitions import choose_days, create_partitions
from raceday_dagster.store.signals import FoundSignals, StoredPoll
from raceday_dagster.store.sql_errors import is_missing_partition, naming_database_errors
from raceday_dagster.store.transaction import Transactions

__all__ = ["FoundSignals", "Poll", "PollRun", "RaceStore", "StoredPoll", "WriteReport"]

DEADLINE_S = 10.0
LIST_DEADLINE_S = 30.0
IMAGE_DEADLINE_S = 5.0

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class RaceStore:
    """Writes races, racing days and the ledger; reads what the schedule needs.

    Args:
        engine: From ``engine.build_engine``; the store never makes another.
        monotonic: Clock of durations and deadlines, seconds.
        utc_now: Clock that says which racing days are near.
        sleep: Called before the one retry of a failure that may pass.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.engine = engine
        self.gauge = PoolGauge(engine)
        self._monotonic = monotonic
        self._utc_now = utc_now
        self._transactions = Transactions(engine, self.gauge, monotonic=monotonic, sleep=sleep)
        self._days: frozenset[date] = frozenset()  # those known to have partitions

    def write_race(self, snapshot: RaceSnapshot, poll: Poll, *, deadline_s: float = DEADLINE_S) -> WriteReport:
        """Writes one poll of one race, its ledger row included, or nothing.

        The first race of a racing day makes that day's partitions, in a transaction of its own before this one.

        Args:
            snapshot: What the transform made of the answer.
            poll: The run and the stages before, for the ledger.
            deadline_s: Seconds left for the write, its one retry included.

        Raises:
            WriteError: Nothing of it is stored; ``retryable`` says whether the same snapshot may be written later.
        """
        ends_s = self._monotonic() + deadline_s
        if not (days := guess_racing_days(snapshot.race)) <= self._days:
            self._create_partitions(days, snapshot.race_id, deadline_s)
        started_s = self._monotonic()
        breakdown_ms: dict[str, float] = {}

        def measure_ms() -> int:
            return round(1_000 * (self._monotonic() - started_s))

        try:
            report = self._transactions.run(
                lambda transaction: race_write.write_race(transaction, snapshot, poll, measure_ms),
                race_id=snapshot.race_id,
                deadline_s=ends_s - started_s,
                breakdown_ms=breakdown_ms,
            )
        except WriteError as error:
            if is_missing_partition(error.__cause__):
                self._days = frozenset()  # somebody archived it; the next write looks again
            raise
        return report.model_copy(update={"write_ms": measure_ms(), "breakdown_ms": breakdown_ms})

    def record_poll(self, result: ProcessResult, run: PollRun, *, deadline_s: float = DEADLINE_S) -> None:
        """Puts a race that failed or was skipped into the ledger; a second time adds nothing. Raises
        ``WriteError``."""
        self._transactions.run(
            lambda transaction: ledger.record_polls(transaction, run, [result]),
            race_id=result.race_id,
            deadline_s=deadline_s,
        )

    def record_batch(self, run: PollRun, outcome: BatchOutcome) -> None:
        """Puts a batch, and those of its races the ledger misses, into the ledger; a second time adds nothing.
        Raises ``WriteError``: nothing of it is there."""
        self._transactions.run(
            lambda transaction: ledger.record_batch(transaction, run, outcome), deadline_s=DEADLINE_S
        )

    def add_signals(
        self, polls: Sequence[StoredPoll], thresholds: Thresholds, *, deadline_s: float = DEADLINE_S
    ) -> FoundSignals:
        """Finds the signals of stored polls, at most one of a race, and stores them; a second time adds nothing.
        Raises ``WriteError``: none of them is stored."""
        return self._transactions.run(
            lambda transaction: signals.add_signals(transaction, polls, thresholds), deadline_s=deadline_s
        )

    def write_racing_day(self, day: RacingDay) -> RowCounts:
        """Writes the meetings and races of a list: changed rows only, nothing erased, newer answers left alone.
        Raises ``WriteError``: nothing of it is stored."""
        self.ensure_partitions({day.racing_day, *(race.racing_day for race in day.races)})
        return self._transactions.run(
            lambda transaction: day_list.write_list(transaction, day), deadline_s=LIST_DEADLINE_S
        )

    def ensure_partitions(self, days: Iterable[date] = ()) -> list[str]:
        """Makes the missing partitions of today, the next three days (New Zealand) and ``days``; returns their names.

        Raises:
            WriteError: None of them was made.
        """
        days = set(days)
        for day in days:
            if not is_racing_day(day):
                message = f"racing day {day} is outside {FIRST_YEAR} to {LAST_YEAR}: nothing was written"
                raise WriteError(message, race_id="", retryable=False)
        return self._create_partitions(days, "", LIST_DEADLINE_S)

    def read(
        self, query: Callable[Concatenate[Connection, Asked], Answer], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """What one of the ``queries`` that take a connection answers, on a connection of the pool.

        Raises:
            DatabaseError: The database cannot be used.
        """
        ends_s = self._monotonic() + DEADLINE_S
        with naming_database_errors(self.engine), self._transactions.connect(ends_s) as connection:
            return query(connection, *args, **kwargs)

    def record_image(self, image: StoredImage) -> None:
        """Stores what became of an image; a failure leaves alone what was described before. Raises
        ``WriteError``."""
        self._transactions.run(lambda transaction: images.record_image(transaction, image), deadline_s=IMAGE_DEADLINE_S)

    def _create_partitions(self, days: Iterable[date], race_id: str, deadline_s: float) -> list[str]:
        wanted = choose_days(self._utc_now(), days)
        partitions = self._transactions.run(
            lambda transaction: create_partitions(transaction, wanted, race_id), race_id=race_id, deadline_s=deadline_s
        )
        self._days = partitions.days
        return list(partitions.made)
