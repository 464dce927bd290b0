"""The campaign of faults, without its faults: the plan, what counts as late, and when memory grows without bound."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.cadence import LiveRace, Outage, Poll
from benchmarks.measure import MemorySample, find_growth_mb_h
from benchmarks.promises import Fault, check_left_over, find_late_polls

START = datetime(2026, 9, 26, 2, 0, tzinfo=UTC)


def sample_every_5_s(megabytes: Sequence[float]) -> list[MemorySample]:
    return [MemorySample(5.0 * number, mb) for number, mb in enumerate(megabytes)]


def test_the_longest_gap_across_a_fault_is_that_of_a_race_that_was_due_every_15_seconds() -> None:
    def poll(race_id: str, at_s: float) -> Poll:
        at = START + timedelta(seconds=at_s)
        return Poll("run", race_id, at, at, "success")

    races = [LiveRace("near", START, "open"), LiveRace("far", START + timedelta(hours=1), "open")]
    polls = [*(poll("near", at_s) for at_s in (0, 15, 42, 57)), *(poll("far", at_s) for at_s in (0, 110))]
    outage = Outage(START + timedelta(seconds=20), START + timedelta(seconds=30))
    elsewhere = Outage(START + timedelta(seconds=200), START + timedelta(seconds=230))
    faults = [Fault("killed", "", outage, may_fail=False), Fault("later", "", elsewhere, may_fail=False)]
    assert find_late_polls(races, polls, faults) == {"killed": 27.0}


def test_memory_that_fills_a_cache_or_comes_back_does_not_grow_without_bound() -> None:
    assert find_growth_mb_h(sample_every_5_s([100 + min(number, 30) for number in range(120)])) is None
    assert find_growth_mb_h(sample_every_5_s([100 + number % 40 for number in range(120)])) is None
    assert find_growth_mb_h(sample_every_5_s([100 + 0.001 * number for number in range(120)])) is None
    assert find_growth_mb_h(sample_every_5_s([100, 200, 300])) is None


def test_memory_that_never_comes_back_is_a_growth_with_a_rate() -> None:
    growing = sample_every_5_s([100 + 0.1 * number + 0.5 * (number % 3) for number in range(120)])
    assert find_growth_mb_h(growing) == pytest.approx(72, abs=3)


def test_processes_sockets_and_temporary_files_that_are_left_are_broken_promises(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    assert [promise.broken for promise in check_left_over({}, home, temporary)] == [[], []]
    (temporary / "pymp-1").mkdir()
    processes, files = check_left_over({7: "postgres"}, home, temporary)
    assert processes.broken == ["7 postgres"]
    assert files.broken == [str(temporary / "pymp-1")]
