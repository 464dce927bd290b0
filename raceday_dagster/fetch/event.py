"""From the bytes of an event answer to ``racing.events.RaceEvent``: what no single field can check, and the renaming.

Nothing is summed, normalised or guessed: that is the transform's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from raceday_dagster.fetch.envelope import refuse_complaint
from raceday_dagster.fetch.repeated_keys import find_repeated_keys
from raceday_dagster.fetch.wire import (
    WireData,
    WireDividend,
    WireEvent,
    WireRunner,
    WireTracker,
)
from raceday_dagster.fetch.wire_fields import Wire, WireError, describe_invalid, name_path
from raceday_dagster.racing.events import Dividend, Finisher, Odds, RaceEvent, Runner, TotePool, TrackerRow
from raceday_dagster.racing.records import Record

SHARE_SUM_MAX = 1000
"""Percent: the most that the tracker rows of one entrant may add up to; honest sums stay near 100."""

Row = TypeVar("Row", bound=Record)

_RACE_CONVERTED = frozenset({"status", "start_time", "actual_start", "prize_monies"})
_SILK_SIZES = ("64x64", "128x128")
_RUNNER_CONVERTED = frozenset({"scratch_time", "deduction", "odds", *(f"alt_silk_url_{size}" for size in _SILK_SIZES)})
_DIVIDEND_CONVERTED = frozenset({"positions"})


def parse_race_event(body: bytes, *, race_id: str, received_at: datetime) -> RaceEvent:
    """The record of one answer, asked for with ``race_id`` and complete at ``received_at``.

    Raises:
        WireError: The body is not such an answer, answers for another race, or says that the API failed.
    """
    refuse_complaint(body)
    try:
        event = WireEvent.model_validate_json(body)
    except ValidationError as error:
        raise WireError(describe_invalid(error)) from error
    for location in find_repeated_keys(body):
        raise WireError(f"{name_path(location)}: the key is there twice")
    _check_identities(event.data, race_id)
    _check_shares(event.data.money_tracker)
    return _build_event(event, received_at)


def _check_identities(data: WireData, race_id: str) -> None:
    if data.race.race_id != race_id:
        raise WireError("data.race.event_id: is another race than the one asked for")
    for name in ("entrant_id", "runner_number"):
        seen: set[object] = set()
        for index, runner in enumerate(data.runners):
            value = getattr(runner, name)
            if value in seen:
                raise WireError(f"data.runners.{index}.{name}: is there twice")
            seen.add(value)


def _check_shares(tracker: WireTracker | None) -> None:
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for index, row in enumerate((tracker and tracker.entrants) or ()):
        for share in ("hold_percentage", "bet_percentage"):
            sums[row.entrant_id, share] += getattr(row, share)
            if sums[row.entrant_id, share] > SHARE_SUM_MAX:
                raise WireError(
                    f"data.money_tracker.entrants.{index}.{share}: "
                    f"the entrant's rows add up to more than {SHARE_SUM_MAX} percent"
                )


def _build_event(event: WireEvent, received_at: datetime) -> RaceEvent:
    data, race = event.data, event.data.race
    fields = race.known(but=_RACE_CONVERTED)
    if race.actual_start:
        fields["actual_start"] = _from_epoch(race.actual_start)
    if race.prize_monies and race.prize_monies.total_value is not None:
        fields["total_prize_money"] = race.prize_monies.total_value
    if data.money_tracker and data.money_tracker.entrants is not None:
        fields["tracker"] = _build_rows(TrackerRow, data.money_tracker.entrants)
    if data.tote_pools is not None:
        fields["tote_pools"] = _build_rows(TotePool, data.tote_pools)
    if data.dividends is not None:
        fields["dividends"] = tuple(map(_build_dividend, data.dividends))
    if data.results is not None:
        fields["results"] = _build_rows(Finisher, data.results)
    return RaceEvent(
        **fields,
        status=race.status.strip().lower(),
        start_time=_from_epoch(race.start_time),
        generated_at=(event.header and event.header.generated_time) or received_at,
        received_at=received_at,
        runners=tuple(map(_build_runner, data.runners)),
    )


def _build_runner(runner: WireRunner) -> Runner:
    fields = runner.known(but=_RUNNER_CONVERTED)
    for size in _SILK_SIZES:
        fields |= _pick_silk(runner, size)
    if runner.scratch_time:
        fields["scratched_at"] = _from_epoch(runner.scratch_time)
    elif runner.scratch_time == 0 and not runner.is_scratched:
        # A runner that was scratched may be back.
        fields |= dict.fromkeys(("scratched_at", "deduction_win", "deduction_place"))
    if runner.deduction:
        fields |= {f"deduction_{bet}": part for bet, part in runner.deduction.known().items()}
    if runner.odds:
        fields["odds"] = Odds(**runner.odds.known())
    return Runner(**fields)


def _pick_silk(runner: WireRunner, size: str) -> dict[str, str]:
    """The second address of a silk when there is no first."""
    url, other = (getattr(runner, f"{prefix}silk_url_{size}") for prefix in ("", "alt_"))
    return {f"silk_url_{size}": other} if other and not url else {}


def _build_dividend(dividend: WireDividend) -> Dividend:
    positions = tuple(position.known() for position in dividend.positions or ())
    return Dividend(**dividend.known(but=_DIVIDEND_CONVERTED), positions=positions)


def _build_rows(kind: type[Row], rows: Sequence[Wire]) -> tuple[Row, ...]:
    return tuple(kind(**row.known()) for row in rows)


def _from_epoch(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
