"""The dynamic partitions ``races``: one key per race, the race id itself."""

import re
from collections.abc import Iterable

import dagster as dg

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


def register_races(instance: dg.DagsterInstance, race_ids: Iterable[str]) -> int:
    """Makes a partition of every race that is none yet; returns how many."""
    known = set(instance.get_dynamic_partitions(RACES))
    added = [race_id for race_id in dict.fromkeys(race_ids) if race_id not in known]
    if added:
        instance.add_dynamic_partitions(RACES, added)
    return len(added)
