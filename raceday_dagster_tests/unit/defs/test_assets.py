"""What the catalogue is told of a race that is over, and of the rules of the data."""

from __future__ import annotations

import base64
import re
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from raceday_dagster.defs.assets import build_settled_metadata, build_table, check_data
from raceday_dagster.defs.reporting import link_race
from raceday_dagster.errors import DatabaseError
from raceday_dagster.store.data_checks import Violation
from raceday_dagster.store.queries import SettledRace


class UnreadableStore:
    def read(self, *_question: Any) -> Any:
        raise DatabaseError("the database cannot be reached")


def make_race(shares: dict[int, tuple[Decimal, ...]] | None) -> SettledRace:
    return SettledRace(
        race_id="95bd6ff7-22a5",
        meeting_name="Te Rimu Downs",
        race_number=5,
        status="final",
        polls=40,
        signals=2,
        win_pool_total=123_456,
        total_race_pool=None,
        longest_gap_s=16,
        shares=shares,
    )


def test_a_race_is_charted_by_the_four_runners_with_most_of_the_money() -> None:
    shares = {number: (Decimal(10), Decimal(number)) for number in range(1, 7)}
    said = build_settled_metadata(make_race(shares))
    assert (said["win_pool_dollars"], said["race_pool_dollars"]) == (1234.56, 0)
    assert (said["polls"], said["signals"], said["longest_gap_last_5_min_s"]) == (40, 2, 16)
    chart, named = said["shares"].value.split("\n\n")
    found = re.fullmatch(r"!\[shares\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", chart)
    assert found is not None
    assert base64.b64decode(found[1]).decode().count("<polyline") == 4
    assert named == "6: 6 %, 5: 5 %, 4: 4 %, 3: 3 %"


def test_a_race_that_was_seen_once_or_never_has_no_chart() -> None:
    for shares in (None, {1: (Decimal(10),)}):
        assert "shares" not in build_settled_metadata(make_race(shares))


def test_a_meeting_with_a_hostile_name_is_the_text_of_its_link_and_nothing_else() -> None:
    link = link_race("x](javascript:alert(1)) R1", "a/b c")
    assert link == "[x)(javascript:alert(1)) R1](/races/a%2Fb%20c)"


def test_violations_beyond_the_first_twenty_are_left_to_their_count() -> None:
    found = [Violation(race=f"Awapuni R{number}", problem="no result") for number in range(30)]
    assert len(build_table(found).splitlines()) == 2 + 20
    assert build_table([]) == "none"


def test_rules_that_cannot_be_looked_at_fail_in_one_line() -> None:
    with pytest.raises(dg.Failure) as failed:
        list(check_data(race_store=UnreadableStore()))
    assert failed.value.description == "the database cannot be reached"


def test_what_breaks_a_rule_stays_in_its_cell() -> None:
    table = build_table([Violation(race="Awapuni R1", problem="Bold | Brave\nhas 1 cent")])
    assert table.splitlines()[2:] == ["| Awapuni R1 | Bold \\| Brave has 1 cent |"]
