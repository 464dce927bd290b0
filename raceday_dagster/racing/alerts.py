"""When somebody is told of a trouble: once when it begins, again after an hour, and when it is over. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import Field

from raceday_dagster.racing.records import Record

REPEAT_AFTER = timedelta(hours=1)
LONGEST_UNSENT = 100
"""Messages kept for a webhook that does not take them, the newest."""

AlertEvent = Literal[
    "race_without_answer",
    "race_unfinished",
    "daily_initialization_failed",
    "run_failed",
    "database_unavailable",
    "no_machine",
    "machine_lost",
]


class Trouble(Record):
    """Something that is wrong now."""

    event: AlertEvent
    about: str
    """The id of the race, or the name of the job or machine; with the event it is the cause."""
    text: str
    """One line for people."""
    settles: bool = False
    """It is told only when it is still there at the next look: it may be of a service that has just started."""

    @property
    def cause(self) -> str:
        """What tells it from others, and is the same while it lasts."""
        return f"{self.event} {self.about}".strip()


class Raised(Record):
    """A trouble that was seen, and when somebody was told of it."""

    trouble: Trouble
    since: datetime
    told_at: datetime | None = None


class AlertMessage(Record):
    """What to tell of a trouble."""

    state: Literal["raised", "repeated", "cleared"]
    event: AlertEvent
    about: str
    text: str
    since: datetime


class AlertMemory(Record):
    """What is remembered from one look to the next."""

    raised: Mapping[str, Raised] = Field(default_factory=dict)
    """By cause."""
    unsent: tuple[AlertMessage, ...] = ()
    looked_at: datetime | None = None


class ChosenAlerts(NamedTuple):
    """What to tell now, and what to remember."""

    messages: tuple[AlertMessage, ...]
    raised: Mapping[str, Raised]


def choose_messages(
    troubles: Iterable[Trouble],
    raised: Mapping[str, Raised],
    now: datetime,
    *,
    unknown: Collection[AlertEvent] = (),
    after_pause: bool = False,
) -> ChosenAlerts:
    """What to tell of the troubles of this look.

    Args:
        troubles: What is wrong.
        raised: What was wrong at the look before, by cause.
        now: The time of this look.
        unknown: Kinds that could not be looked at: nothing is said of them, and they are remembered as they were.
        after_pause: Nobody looked for a while, so what was wrong at the look before says nothing of what settles.
    """
    messages: list[AlertMessage] = []
    kept = {cause: known for cause, known in raised.items() if known.trouble.event in unknown}
    present = {trouble.cause: trouble for trouble in troubles}
    for cause, trouble in present.items():
        known = raised.get(cause)
        since = known.since if known else now
        told_at = known.told_at if known else None
        if told_at is None and ((known and not after_pause) or not trouble.settles):
            messages.append(_tell("raised", trouble, since))
            told_at = now
        elif told_at is not None and now - told_at >= REPEAT_AFTER:
            messages.append(_tell("repeated", trouble, since))
            told_at = now
        kept[cause] = Raised(trouble=trouble, since=since, told_at=told_at)
    for cause, known in raised.items():
        if cause not in kept and known.told_at is not None:
            messages.append(_tell("cleared", known.trouble, known.since))
    return ChosenAlerts(tuple(messages), kept)


def _tell(state: Literal["raised", "repeated", "cleared"], trouble: Trouble, since: datetime) -> AlertMessage:
    return AlertMessage(state=state, event=trouble.event, about=trouble.about, text=trouble.text, since=since)
