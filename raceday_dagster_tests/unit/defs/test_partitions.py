"""The keys of races."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.defs import partitions
from raceday_dagster.defs.partitions import build_mapping_key, find_partitions, register_races
from raceday_dagster.racing.race_key import RaceKey, parse_race_key


def test_a_uuid_stays_readable_as_a_mapping_key() -> None:
    assert build_mapping_key("0f57e087-00d9-4c61-9549-835abe2ae2ed") == "0f57e087_00d9_4c61_9549_835abe2ae2ed"


@given(st.text(min_size=1))
def test_a_mapping_key_holds_only_what_dagster_takes(race_id: str) -> None:
    key = build_mapping_key(race_id)
    assert key.isascii()
    assert key.replace("_", "a").isalnum()


@given(st.lists(st.text(alphabet="x-_61ab/é", min_size=1), unique=True))
def test_different_races_have_different_mapping_keys(race_ids: list[str]) -> None:
    assert len({build_mapping_key(race_id) for race_id in race_ids}) == len(race_ids)


class FakeInstance:
    """Keeps the keys of one set of dynamic partitions."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    def get_dynamic_partitions(self, _name: str) -> list[str]:
        return self.keys

    def add_dynamic_partitions(self, _name: str, keys: list[str]) -> None:
        self.keys += keys


def test_a_race_is_found_by_its_present_name_its_earlier_one_or_its_bare_id() -> None:
    present, renamed = "2026-11-26 Te Rimu R05 95bd6ff7", "2026-11-26 Te Rimu Downs R06 1cb99897"
    bare, unknown = "2026-11-26 Old Tannery R02 06a041f1", "2026-11-26 Old Tannery R03 7a0b1c2d"
    instance = FakeInstance(present, "2026-11-26 Rimu R06 1cb99897", "06a041f1-22a5-4c0d")
    assert find_partitions(instance, [present, renamed, bare, unknown]) == {
        present: present,
        renamed: "2026-11-26 Rimu R06 1cb99897",
        bare: "06a041f1-22a5-4c0d",
        unknown: None,
    }
    assert register_races(instance, [present, renamed, bare, unknown]) == 1
    assert instance.keys[-1] == unknown
    assert register_races(instance, [present, renamed, bare, unknown]) == 0


def test_of_a_month_of_names_only_those_that_may_be_meant_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [f"2026-11-25 Te Rimu R01 {number:08x}" for number in range(1000)]
    instance = FakeInstance(*others, "2026-11-26 Te Rimu R05 95bd6ff7")
    read: list[str] = []

    def read_and_note(name: str) -> RaceKey | None:
        read.append(name)
        return parse_race_key(name)

    monkeypatch.setattr(partitions, "parse_race_key", read_and_note)
    wanted = "2026-11-26 Te Rimu Downs R05 95bd6ff7"
    assert find_partitions(instance, [wanted]) == {wanted: "2026-11-26 Te Rimu R05 95bd6ff7"}
    assert set(read) == {wanted, "2026-11-26 Te Rimu R05 95bd6ff7"}


def test_races_of_two_days_whose_ids_begin_alike_are_two_partitions() -> None:
    instance = FakeInstance("2026-11-25 Te Rimu R05 95bd6ff7")
    assert register_races(instance, ["2026-11-26 Awapuni R01 95bd6ff7"]) == 1


def test_new_partitions_stand_in_the_order_of_their_names() -> None:
    instance = FakeInstance()
    register_races(instance, ["2026-11-26 B R01 bbbbbbbb", "2026-11-26 A R02 cccccccc", "2026-11-26 A R01 dddddddd"])
    assert instance.keys == sorted(instance.keys)
