"""Which request meets which fault. What a broken answer says is shown over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from raceday_dagster.simulator.faults import FaultBook, FaultError


def test_a_rule_meets_only_its_path_and_only_so_often() -> None:
    book = FaultBook()
    book.add("status", "race-1", code=503, times=2)
    assert book.take("/racing/events/race-2") == []
    assert [len(book.take("/racing/events/race-1")) for _ in range(3)] == [1, 1, 0]
    assert book.describe()[0]["fired"] == 2


def test_pauses_come_before_the_first_other_fault_and_the_rest_is_left_alone() -> None:
    book = FaultBook()
    for kind in ("latency", "status", "reset"):
        book.add(kind)
    assert [rule.kind for rule in book.take("/")] == ["latency", "status"]
    assert [rule["fired"] for rule in book.describe()] == [1, 1, 0]


@pytest.mark.parametrize("wish", [{"kind": "earthquake"}, {"kind": "reset", "code": 500}], ids=str)
def test_a_rule_that_makes_no_sense_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        FaultBook().add(**wish)
