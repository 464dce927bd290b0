"""One answer for one race becomes one snapshot: the whole calculation, pure and deterministic.

The rows are put together here; money, pools, prices, time and quality have modules of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raceday_dagster.racing.events import STATUSES, RaceEvent, Runner
from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import (
    RACE_TYPES,
    EntrantRow,
    MeetingRow,
    MoneyFlowRow,
    OddsRow,
    RaceRow,
    RaceSnapshot,
    ResultsRow,
    ResultStatus,
)
from raceday_dagster.transform.money_flow import RaceMoney, follow_money
from raceday_dagster.transform.odds import ODDS_TYPES, Prices, read_prices
from raceday_dagster.transform.quality import assess_quality
from raceday_dagster.transform.rounding import round_half_up
from raceday_dagster.transform.timing import choose_interval_type, choose_time_interval, measure_time_to_start
from raceday_dagster.transform.tote_pools import read_pools


def transform_race(event: RaceEvent) -> RaceSnapshot:
    """What is to be stored of one answer."""
    pools = read_pools(event.tote_pools, event.dividends)
    money = follow_money([runner.entrant_id for runner in event.runners], event.tracker, pools.row)
    prices = {runner.entrant_id: read_prices(runner.odds) for runner in event.runners}
    ahead_s = measure_time_to_start(event.start_time, event.generated_at)
    time_to_start_s = round_half_up(ahead_s)
    interval_type = choose_interval_type(ahead_s)
    return RaceSnapshot(
        race_id=event.race_id,
        event_timestamp=event.generated_at,
        polling_timestamp=event.received_at,
        time_to_start_s=time_to_start_s,
        time_interval=choose_time_interval(ahead_s),
        interval_type=interval_type,
        meeting=MeetingRow(**_pick(event, MeetingRow), race_type=RACE_TYPES[event.category]),
        race=_build_race(event),
        entrants=tuple(
            _build_entrant(runner, event.race_id, prices[runner.entrant_id], money) for runner in event.runners
        ),
        has_unreadable_runner=event.has_unreadable_runner,
        pools=pools.row,
        results=_build_results(event, prices),
        money_flow=_build_money_flow(event.runners, prices, money),
        odds=tuple(
            OddsRow(entrant_id=runner.entrant_id, type=kind, odds=price)
            for runner in event.runners
            for kind, price in prices[runner.entrant_id].carried.items()
            if price is not None
        ),
        quality=assess_quality(
            event,
            pools,
            money,
            time_to_start_s=time_to_start_s,
            interval_type=interval_type,
            warnings=_warn(event, prices),
        ),
    )


def _pick(source: Record, row: type[Record]) -> dict[str, Any]:
    """The carried fields that are stored as they came, for they bear the column's name."""
    return {name: value for name, value in source.carried().items() if name in row.model_fields}


def _build_race(event: RaceEvent) -> RaceRow:
    fields = _pick(event, RaceRow)
    if event.status not in STATUSES:
        del fields["status"]
    if not _has_actual_start(event):
        fields.pop("actual_start", None)
    return RaceRow(**fields, type=event.category)


def _has_actual_start(event: RaceEvent) -> bool:
    """Whether the feed's actual start is one: before the off it repeats the advertised start there."""
    if event.actual_start is None:
        return False
    if event.status == "closed":
        return event.actual_start != event.start_time
    return event.status in {"interim", "final"}


def _build_entrant(runner: Runner, race_id: str, prices: Prices, money: RaceMoney) -> EntrantRow:
    share = money.columns.get(runner.entrant_id, {})
    unknown = tuple(f"{pool}_pool_" for pool in ("win", "place") if share.get(f"{pool}_pool_amount") is None)
    return EntrantRow(
        **_pick(runner, EntrantRow),
        race_id=race_id,
        **{f"{kind}_odds": price for kind, price in prices.carried.items()},
        **{
            name: value
            for name, value in share.items()
            if name in EntrantRow.model_fields and not name.startswith(unknown)
        },
    )


def _build_money_flow(
    runners: Sequence[Runner], prices: Mapping[str, Prices], money: RaceMoney
) -> tuple[MoneyFlowRow, ...]:
    return tuple(
        MoneyFlowRow(
            entrant_id=runner.entrant_id,
            **money.columns[runner.entrant_id],
            **{f"{kind}_odds": prices[runner.entrant_id].carried.get(kind) for kind in ODDS_TYPES},
        )
        for runner in runners
        if runner.entrant_id in money.columns
    )


def _build_results(event: RaceEvent, prices: Mapping[str, Prices]) -> ResultsRow | None:
    """Results as JSON documents, in which decimals are texts: exact, and the same for every reader."""
    if not event.results and not event.dividends:
        return None
    documents = {
        "results": _dump(event.results),
        "dividends": _dump(event.dividends),
        "fixed_odds": _list_fixed_odds(event.runners, prices),
    }
    fields: dict[str, Any] = {name: document for name, document in documents.items() if document}
    if event.protest is not None:
        fields["protest_lodged"] = event.protest
    status: ResultStatus = "final" if event.status == "final" else "protest" if event.protest else "interim"
    return ResultsRow(**fields, result_status=status, result_time=event.generated_at)


def _dump(rows: Sequence[Record] | None) -> tuple[dict[str, Any], ...]:
    return tuple(row.model_dump(mode="json", exclude_unset=True) for row in rows or ())


def _list_fixed_odds(runners: Sequence[Runner], prices: Mapping[str, Prices]) -> dict[str, dict[str, str | None]]:
    # A number that two runners have is nobody's.
    numbers = Counter(runner.runner_number for runner in runners)
    listed: dict[str, dict[str, str | None]] = {
        str(runner.runner_number): {
            kind: None if price is None else str(price)
            for kind, price in prices[runner.entrant_id].carried.items()
            if kind.startswith("fixed")
        }
        for runner in runners
        if not runner.is_scratched and numbers[runner.runner_number] == 1
    }
    return {number: carried for number, carried in listed.items() if carried}


def _warn(event: RaceEvent, prices: Mapping[str, Prices]) -> list[str]:
    warnings = list(event.warnings)
    if event.status not in STATUSES:
        warnings.append(f"unknown_status={event.status[:40]}")
    if impossible := sum(price.impossible for price in prices.values()):
        warnings.append(f"impossible_odds={impossible}")
    return warnings
