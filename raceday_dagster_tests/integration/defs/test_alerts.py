"""What the sensor `alerts` sees in a real database and in Dagster's runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from raceday_dagster.defs.automation.alerts import InstanceWatch, alerts, read_memory
from raceday_dagster.settings import Settings
from raceday_dagster_tests.integration.fetch.raw_server import frame, say, serving
from raceday_dagster_tests.integration.postgres_fixture import order
from raceday_dagster_tests.integration.race_day import RaceDay


def test_failed_runs_and_unanswered_races_are_told_and_cleared(
    day: RaceDay, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, overdue, fine = day.race_ids[:3]
    day.poll([silent, overdue, fine])
    now = datetime.now(UTC)
    starts = {silent: now + timedelta(minutes=1), overdue: now - timedelta(hours=3), fine: now + timedelta(hours=9)}
    for race_id, start in starts.items():
        order(database_url, f"UPDATE races SET start_time = '{start.isoformat()}' WHERE race_id = '{race_id}'")
    order(database_url, f"UPDATE race_polls SET polled_at = polled_at - interval '10 min' WHERE race_id = '{silent}'")
    day.simulator.add_fault(fine, "garbage", times=1)
    assert not day.poll([fine], fail_run_when="any").success

    with serving(say(frame(b""))) as server:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", f"http://127.0.0.1:{server.port}/hook")
        cursor = None
        for _ in range(2):
            context = dg.build_sensor_context(instance=day.instance, cursor=cursor)
            result = alerts(context)
            assert isinstance(result, dg.SensorResult)
            cursor = result.cursor
    seen = [{(alert["event"], alert["about"]) for alert in body["alerts"]} for body in server.read_posted()]
    assert seen == [
        {("race_unfinished", overdue), ("run_failed", "process_races")},
        {("race_without_answer", silent)},
    ]
    assert len(read_memory(cursor).raised) == 3

    watch = InstanceWatch(day.instance, Settings.from_environment())
    assert [trouble.event for trouble in watch.list_run_troubles(now + timedelta(minutes=5))] == ["run_failed"]
    assert day.poll([fine]).success
    assert watch.list_run_troubles(now + timedelta(minutes=5)) == []
