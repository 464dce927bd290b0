"""What a transform worker is asked and what it answers; JSON, validated on both sides of the border."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot


class TransformRequest(Record):
    """One race to transform."""

    task_id: str
    payload: RaceEvent


class TaskError(Record):
    """Why a calculation failed: the exception's class, one line, and the frames without their values."""

    name: str
    message: str = Field(max_length=200)
    stack: str


class TransformReply(Record):
    """What came of a request: a result or an error, never both. ``duration_ms`` is the worker's own."""

    task_id: str
    status: Literal["ok", "error"]
    duration_ms: int
    result: RaceSnapshot | None = None
    error: TaskError | None = None

    @model_validator(mode="after")
    def _holds_what_it_says(self) -> Self:
        if (self.status == "ok") != (self.result is not None) or (self.status == "error") != (self.error is not None):
            raise ValueError("a reply holds a result if it is ok, and otherwise an error")
        return self


def encode(message: TransformRequest | TransformReply) -> bytes:
    """The message as JSON; fields that were never set stay unset on the other side.

    Raises:
        ValueError: A text in it is not Unicode (half of a surrogate pair).
    """
    return message.model_dump_json(exclude_unset=True).encode()
