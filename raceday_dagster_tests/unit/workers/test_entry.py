"""The messages on a worker's pipe, and what a worker makes of them, without a worker."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.entry import TransformReply, TransformRequest, answer, encode, load_calculation
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event


def refuse(event: RaceEvent) -> RaceSnapshot:
    raise ValueError(f"first line of {event.name}\nsecond line \ud800 " + "x" * 500)


def test_request_and_reply_cross_the_pipe_unchanged() -> None:
    event = golden_event()
    request = TransformRequest.model_validate_json(encode(TransformRequest(task_id="7", payload=event)))
    assert request.payload == event
    reply = TransformReply.model_validate_json(answer(encode(request), load_calculation()))
    assert (reply.task_id, reply.status, reply.error) == ("7", "ok", None)
    assert reply.result == transform_race(event)


def test_failed_calculation_is_a_reply_with_one_short_line() -> None:
    raw = answer(encode(TransformRequest(task_id="7", payload=open_event(name="THE NAME"))), refuse)
    error = TransformReply.model_validate_json(raw).error
    assert error is not None
    assert error.name == "ValueError"
    assert error.message.startswith("first line of THE NAME second line ? xxx")
    assert len(error.message) == 200
    assert "refuse" in error.stack
    assert "THE NAME" not in error.stack


def test_wrong_request_is_answered_with_the_field_that_is_wrong() -> None:
    document = json.loads(encode(TransformRequest(task_id="7", payload=open_event())))
    document["payload"]["race_number"] = "secret"
    error = TransformReply.model_validate_json(answer(json.dumps(document).encode(), transform_race)).error
    assert error is not None
    assert error.name == "ValidationError"
    assert error.message.startswith("payload.race_number: ")
    assert "secret" not in error.message + error.stack


@pytest.mark.parametrize("status", ["ok", "error"])
def test_reply_must_hold_what_its_status_says(status: str) -> None:
    with pytest.raises(ValidationError, match="a reply holds a result"):
        TransformReply.model_validate({"task_id": "7", "status": status, "duration_ms": 1})
