"""The keys of races."""

from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.defs.partitions import build_mapping_key


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
