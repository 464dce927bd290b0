"""The dynamic partitions ``races``: one key per race, its readable name or, as it was once, its bare id."""

import re
from collections.abc import Iterable

import dagster as dg

from raceday_dagster.racing.race_key import parse_race_key, read_id_start
from raceday_dagster.store.queries import find_races
from raceday_dagster.store.race_store import RaceStore

RACES = "races"
race_partitions = dg.DynamicPartitionsDefinition(name=RACES)


def build_mapping_key(race_id: str) -> str:
    """The Dagster mapping key of a race: ``[A-Za-z0-9_]`` only, and different for different ids.

    A UUID stays readable, its hyphens become underscores. Anything else, and whatever begins like an escaped id, is
    escaped whole.
    """
    if re.fullmatch(r"[A-Za-z0-9-]+", race_id) and not race_id.startswith("x-"):
        return race_id.replace("-", "_")
    return "x_" + race_id.encode("utf-8", "surrogatepass").hex()


def register_races(instance: dg.DagsterInstance, keys: Iterable[str]) -> int:
    """Makes a partition of every race that has none under either of its names; returns how many."""
    known = {read_id_start(key) for key in instance.get_dynamic_partitions(RACES)}
    added = sorted({key for key in keys if read_id_start(key) not in known})  # the UI keeps the order they came in
    if added:
        instance.add_dynamic_partitions(RACES, added)
    return len(added)


def find_race(race_store: RaceStore, key: str) -> str:
    """The id of the race that a partition names.

    Raises:
        dagster.Failure: The name means no stored race, or two.
        DatabaseError: The database cannot be used.
    """
    named = parse_race_key(key)
    if named is None:
        return key
    found = race_store.read(find_races, named)
    if len(found) == 1:
        return found[0]
    raise dg.Failure(
        f"the partition {key!r} names {'no stored race' if not found else 'two races'}: daily_baseline loads a racing "
        "day, and process_races polls a race by its id",
        allow_retries=False,
    )
