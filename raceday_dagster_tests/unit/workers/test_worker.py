"""The two ends of the border to a worker, without a worker; and how fast lost workers are replaced."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster.workers.messages import TransformReply, TransformRequest, encode
from raceday_dagster.workers.restarts import LONGEST_DELAY_S, RestartBudget
from raceday_dagster.workers.worker import answer
from raceday_dagster_tests.unit.transform.golden_race import golden_event, open_event


def refuse(event: RaceEvent) -> RaceSnapshot:
    raise ValueError(f"first line of {event.name}\nsecond line \ud800 " + "x" * 500)


def test_an_answer_crosses_the_border_unchanged() -> None:
    event = golden_event()
    request = TransformRequest.model_validate_json(encode(TransformRequest(task_id="7", payload=event)))
    assert request.payload == event
    reply = TransformReply.model_validate_json(answer(encode(request)))
    assert (reply.task_id, reply.status, reply.error) == ("7", "ok", None)
    assert reply.result == transform_race(event)


def test_a_failed_calculation_is_a_reply_with_one_short_line() -> None:
    raw = answer(encode(TransformRequest(task_id="7", payload=open_event(name="THE NAME"))), refuse)
    error = TransformReply.model_validate_json(raw).error
    assert error is not None
    assert error.name == "ValueError"
    assert error.message.startswith("first line of THE NAME second line ? xxx")
    assert len(error.message) == 200
    assert "refuse" in error.stack
    assert "THE NAME" not in error.stack


def test_a_request_that_is_none_is_answered_with_the_field_that_is_wrong() -> None:
    document = json.loads(encode(TransformRequest(task_id="7", payload=open_event())))
    document["payload"]["race_number"] = "secret"
    error = TransformReply.model_validate_json(answer(json.dumps(document).encode())).error
    assert error is not None
    assert error.name == "ValidationError"
    assert error.message.startswith("payload.race_number: ")
    assert "secret" not in error.message + error.stack


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_reply_must_hold_what_its_status_says(status: str) -> None:
    with pytest.raises(ValidationError, match="a reply holds a result"):
        TransformReply.model_validate({"task_id": "7", "status": status, "duration_ms": 1})


def test_restarts_slow_down() -> None:
    budget = RestartBudget(10)
    assert [budget.reserve(0.0) for _ in range(7)] == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, LONGEST_DELAY_S]
    assert budget.total == 7


def test_restarts_beyond_the_budget_wait_for_the_minute_to_pass() -> None:
    budget = RestartBudget(2)
    assert budget.reserve(100.0) == 0.0
    assert budget.reserve(110.0) < LONGEST_DELAY_S
    assert budget.reserve(120.0) == 40.0
    assert budget.reserve(300.0) == 0.0
