"""What the catalogue is told of the rules of the data."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from raceday_dagster.defs.assets import build_table, check_data
from raceday_dagster.errors import DatabaseError
from raceday_dagster.store.data_checks import Violation


class UnreadableStore:
    def read(self, *_question: Any) -> Any:
        raise DatabaseError("the database cannot be reached")


def test_rules_that_cannot_be_looked_at_fail_in_one_line() -> None:
    with pytest.raises(dg.Failure) as failed:
        list(check_data(race_store=UnreadableStore()))
    assert failed.value.description == "the database cannot be reached"


def test_what_breaks_a_rule_stays_in_its_cell() -> None:
    table = build_table([Violation(race="Awapuni R1", problem="Bold | Brave\nhas 1 cent")])
    assert table.splitlines()[2:] == ["| Awapuni R1 | Bold \\| Brave has 1 cent |"]
