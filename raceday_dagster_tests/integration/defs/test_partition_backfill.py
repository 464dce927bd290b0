"""Races by hand: a backfill over partitions of `process_race`, as the UI launches one run a partition."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from raceday_dagster_tests.integration.defs.day_runs import process_race_job
from raceday_dagster_tests.integration.race_day import RaceDay, open_race_day

BACKFILL = {"dagster/backfill": "by-hand"}


@pytest.fixture(scope="module")
def day(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaceDay]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        open_race_day(database_url, tmp_path_factory.mktemp("instance"), monkeypatch) as opened,
    ):
        yield opened


def test_each_partition_of_a_backfill_polls_its_own_race(day: RaceDay) -> None:
    chosen = day.race_ids[2:5]
    day.instance.add_dynamic_partitions("races", day.race_ids)
    for race_id in chosen:
        result = dg.execute_job(
            dg.reconstructable(process_race_job),
            instance=day.instance,
            tags={"dagster/partition": race_id, **BACKFILL},
        )
        assert result.success
        assert set(day.read_polls(result.run_id)) == {race_id}
    assert {row["race_id"] for row in day.ask("SELECT race_id FROM races")} == set(chosen)
    runs = day.instance.get_runs(dg.RunsFilter(tags=BACKFILL))
    assert {run.tags["dagster/partition"] for run in runs} == set(chosen)
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
