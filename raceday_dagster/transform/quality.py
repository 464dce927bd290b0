"""How far an answer can be trusted, in points. It never fails a race: it is logged, returned and stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from raceday_dagster.racing.events import RaceEvent
from raceday_dagster.racing.snapshots import VALID_FROM, IntervalType, Quality
from raceday_dagster.transform.money_flow import RaceMoney
from raceday_dagster.transform.rounding import to_hundredths
from raceday_dagster.transform.tote_pools import PoolTotals

TOLERANCE = 5
"""Percent; the feed rounds each of some seventy rows to an integer, so that true totals are off by several."""
FEWEST_RUNNERS, MOST_RUNNERS = 2, 30

Finding = tuple[int, str]
"""Points lost, and the warning that says why."""


def assess_quality(
    event: RaceEvent,
    pools: PoolTotals,
    money: RaceMoney,
    *,
    time_to_start_s: int,
    interval_type: IntervalType,
    warnings: Iterable[str] = (),
) -> Quality:
    """The score of one answer. ``warnings`` of earlier steps are passed on and cost nothing more."""
    findings = [
        *_judge_tracker(money),
        *_judge_pools(pools),
        *_judge_field(event),
    ]
    if interval_type == "live" and time_to_start_s > 0:
        findings.append((10, "live_before_start"))
    if not money.columns:
        findings.append((10, "no_money_flow"))
    score = max(0, 100 - sum(points for points, _ in findings))
    texts = (*(text for _, text in findings), *pools.warnings, *warnings)
    return Quality(score=score, valid=score >= VALID_FROM, warnings=texts)


def _judge_tracker(money: RaceMoney) -> Sequence[Finding]:
    findings: list[Finding] = []
    if not money.tracked:
        return findings
    if abs(money.total.hold - 100) > TOLERANCE:
        findings.append((20, f"hold_total={_show(money.total.hold)}"))
    if abs(money.total.bet - 100) > TOLERANCE:
        findings.append((10, f"bet_total={_show(money.total.bet)}"))
    if money.unmatched.hold:
        findings.append((0, f"unmatched_hold={_show(money.unmatched.hold)}"))
    if money.unmatched.bet:
        findings.append((0, f"unmatched_bet={_show(money.unmatched.bet)}"))
    return findings


def _judge_pools(pools: PoolTotals) -> Sequence[Finding]:
    row = pools.row
    if row is None:
        return [(15 + 10, "no_pools")]
    if row.extracted_pools == 0 or (row.win_pool_total == 0 and row.place_pool_total == 0):
        return [(15, "no_win_or_place_pool")]
    if row.place_pool_total > 3 * row.win_pool_total:
        return [(0, "place_pool_above_three_times_win_pool")]
    return []


def _judge_field(event: RaceEvent) -> Sequence[Finding]:
    findings: list[Finding] = []
    running = sum(not runner.is_scratched for runner in event.runners)
    if not event.meeting_id.strip() or not event.meeting_name.strip():
        findings.append((5, "no_meeting"))
    if not event.runners:
        findings.append((10, "no_entrants"))
    if not FEWEST_RUNNERS <= running <= MOST_RUNNERS:
        findings.append((15, f"runners={running}"))
    return findings


def _show(percentage: Fraction) -> str:
    return f"{to_hundredths(percentage):f}".rstrip("0").rstrip(".")
