"""The dynamic partitions ``races``: one key per race, its readable name or, as it was once, its bare id."""

import re
from collections.abc import Collection, Iterable

import dagster as dg

from raceday_dagster.racing.race_key import ID_START, parse_race_key, read_id_start
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


def find_partitions(instance: dg.DagsterInstance, keys: Iterable[str]) -> dict[str, str | None]:
    """What each race is called as a partition, by its present name: that, its bare id, the name it had when its meeting
    was called otherwise, or ``None`` for a race that is no partition."""
    keys = list(keys)
    # A month has twenty thousand names; to read each takes a tenth of a second of every batch that settles a race.
    starts = {read_id_start(key) for key in keys}
    names = (name for name in instance.get_dynamic_partitions(RACES) if may_begin(name, starts))
    registered = {parse_race_key(name) or read_id_start(name): name for name in names}
    return {
        key: next((registered[each] for each in (parse_race_key(key), read_id_start(key)) if each in registered), None)
        for key in keys
    }


def may_begin(name: str, starts: Collection[str]) -> bool:
    """Whether the race that a partition is called after may have an id that begins so: no for most that have not."""
    return name.rpartition(" ")[2] in starts or name[:ID_START] in starts


def register_races(instance: dg.DagsterInstance, keys: Iterable[str]) -> int:
    """Makes a partition of every race that has none under any of its names; returns how many."""
    added = sorted({key for key, name in find_partitions(instance, keys).items() if name is None})  # the UI's order
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
