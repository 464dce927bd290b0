"""One race as ``/racing/events/{id}`` sends it, and its way into ``racing.events.RaceEvent``.

A field that becomes a record's field as it is has that field's name, and the API's as its alias. Left out on purpose:
``derivatives`` (entrants of other markets) and the ``favourite`` and ``mover`` objects, whose flags are wrong; the
runners' own flags count. Nothing is summed, normalised or guessed: that is the transform's.

What cannot be read is dropped with a warning and leaves what is stored as it is; ``REQUIRED`` is what costs the race.
A runner without an id or a number costs itself, and an entrant of whose tracker rows one cannot be read has no share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from raceday_dagster.fetch.wire import (
    WIRE_CONFIG,
    Clock,
    Code,
    Dollars,
    Epoch,
    Flag,
    Fraction,
    Id,
    Label,
    Margin,
    Measure,
    Notes,
    OptionalId,
    Positive,
    Price,
    Prize,
    RequiredEpoch,
    Share,
    Text,
    Whole,
    WireError,
    WireHeader,
    find_complaint,
    known,
    name_path,
    parse_document,
    read_leniently,
    refuse_complaint,
)
from raceday_dagster.racing.events import Category, RaceEvent

SHARE_SUM_MAX = 1000
"""Percent: the most that the tracker rows of one entrant may add up to; honest sums stay near 100."""

WARNINGS_MAX = 20

_REQUIRED_OF_RACE = ("event_id", "meeting_id", "status", "type", "country", "advertised_start", "race_number")
REQUIRED = frozenset(
    {
        *((), ("header",), ("header", "generated_time"), ("data",), ("data", "runners"), ("data", "race")),
        *(("data", "race", name) for name in _REQUIRED_OF_RACE),
    }
)
"""The envelope, who, when and where the race is, and its status."""

_RACE_CONVERTED = frozenset({"status", "start_time", "actual_start", "prize_monies"})
_RUNNER_CONVERTED = frozenset({"is_scratched", "scratch_time", "deduction", "odds"})


class WirePrizeMonies(TypedDict):
    total_value: NotRequired[Prize | None]


class WireRace(TypedDict):
    """``data.race``."""

    race_id: Annotated[Id, Field(alias="event_id")]
    meeting_id: Id
    meeting_name: NotRequired[Text]
    name: NotRequired[Annotated[Text, Field(alias="description")]]
    status: Text
    category: Annotated[Category, Field(alias="type")]
    country: Code
    start_time: Annotated[RequiredEpoch, Field(alias="advertised_start")]
    race_number: Positive
    state: NotRequired[Text | None]
    actual_start: NotRequired[Epoch | None]
    race_date_nz: NotRequired[Label | None]
    start_time_nz: NotRequired[Clock | None]
    start_type: NotRequired[Text | None]
    distance: NotRequired[Whole | None]
    track_condition: NotRequired[Text | None]
    track_surface: NotRequired[Text | None]
    track_direction: NotRequired[Text | None]
    rail_position: NotRequired[Text | None]
    weather: NotRequired[Text | None]
    prize_monies: NotRequired[WirePrizeMonies | None]
    entrant_count: NotRequired[Whole | None]
    field_size: NotRequired[Whole | None]
    positions_paid: NotRequired[Whole | None]
    silk_url: NotRequired[Text | None]
    video_channels: NotRequired[list[Text] | None]
    protest: NotRequired[Flag | None]
    protest_reason: NotRequired[Text | None]


class WireOdds(TypedDict):
    fixed_win: NotRequired[Price | None]
    fixed_place: NotRequired[Price | None]
    pool_win: NotRequired[Price | None]
    pool_place: NotRequired[Price | None]


class WireDeduction(TypedDict):
    win: NotRequired[Fraction | None]
    place: NotRequired[Fraction | None]


class WireRunner(TypedDict):
    """One of ``data.runners``."""

    entrant_id: Id
    runner_number: Positive
    name: NotRequired[Text]
    is_scratched: NotRequired[Flag]
    barrier: NotRequired[Whole | None]
    barrier_position: NotRequired[Text | None]
    is_late_scratched: NotRequired[Flag | None]
    is_emergency: NotRequired[Flag | None]
    scratch_time: NotRequired[Epoch | None]
    deduction: NotRequired[WireDeduction | None]
    favourite: NotRequired[Flag | None]
    mover: NotRequired[Flag | None]
    jockey: NotRequired[Text | None]
    trainer_name: NotRequired[Text | None]
    silk_colours: NotRequired[Text | None]
    silk_url_64x64: NotRequired[Text | None]
    silk_url_128x128: NotRequired[Text | None]
    alt_silk_url_64x64: NotRequired[Text | None]
    alt_silk_url_128x128: NotRequired[Text | None]
    runner_change: NotRequired[Notes | None]
    odds: NotRequired[WireOdds | None]


class WireTrackerRow(TypedDict):
    entrant_id: OptionalId
    hold_percentage: NotRequired[Share]
    bet_percentage: NotRequired[Share]


class WireTracker(TypedDict):
    """``data.money_tracker``: several rows an entrant."""

    entrants: NotRequired[list[WireTrackerRow] | None]


class WireTotePool(TypedDict):
    """One of ``data.tote_pools``."""

    product_type: NotRequired[Text | None]
    total: NotRequired[Dollars | None]
    status: NotRequired[Text | None]


class WirePosition(TypedDict):
    runner_number: Whole
    position: Whole


class WireDividend(TypedDict):
    """One of ``data.dividends``."""

    tote: NotRequired[Text | None]
    product_name: NotRequired[Text | None]
    status: NotRequired[Text | None]
    dividend: NotRequired[Dollars | None]
    pool_size: NotRequired[Dollars | None]
    jackpot_size: NotRequired[Dollars | None]
    positions: NotRequired[list[WirePosition] | None]
    description: NotRequired[Text | None]


class WireFinisher(TypedDict):
    """One of ``data.results``."""

    position: Whole
    runner_number: Positive
    entrant_id: NotRequired[OptionalId | None]
    name: NotRequired[Text | None]
    barrier: NotRequired[Whole | None]
    margin_length: NotRequired[Margin | None]
    positional_margin: NotRequired[Text | None]
    winning_time: NotRequired[Measure | None]
    time_ran: NotRequired[Measure | None]


class WireData(TypedDict):
    """``data``: a missing list is not an empty one, except that there is no race without runners."""

    race: WireRace
    runners: list[WireRunner]
    money_tracker: NotRequired[WireTracker | None]
    tote_pools: NotRequired[list[WireTotePool] | None]
    dividends: NotRequired[list[WireDividend] | None]
    results: NotRequired[list[WireFinisher] | None]


@with_config(WIRE_CONFIG)
class WireEvent(TypedDict):
    """The whole answer."""

    header: NotRequired[WireHeader | None]
    data: WireData


_ANSWER = TypeAdapter(WireEvent)


def parse_race_event(body: bytes, *, race_id: str, received_at: datetime) -> RaceEvent:
    """The record of one answer, asked for with ``race_id`` and complete at ``received_at``.

    Raises:
        WireError: The body is not such an answer, answers for another race, or says instead that the API failed.
    """
    content = parse_document(body)
    complaint = find_complaint(content)
    try:
        event, dropped = read_leniently(_ANSWER, content, required=REQUIRED)
    except WireError:
        refuse_complaint(complaint)
        raise
    data = event["data"]
    if not data["runners"]:
        refuse_complaint(complaint)
    _check_identities(data, race_id)
    rows, unclear = _read_tracker(data)
    numbers = Counter(runner["runner_number"] for runner in data["runners"])
    warnings = [
        *([f"api_error: {complaint}"] if complaint else []),
        *(f"dropped={name_path(place)}" for place in dropped),
        *(f"unclear_share={entrant_id}" for entrant_id in sorted(unclear)),
        *(f"repeated_number={number}" for number, times in sorted(numbers.items()) if times > 1),
    ]
    fields = _convert_event(event, received_at, rows, warnings)
    if any(place[:2] == ("data", "runners") and len(place) == 3 for place in dropped):
        fields["has_unreadable_runner"] = True
    return RaceEvent.model_validate(fields)


def _check_identities(data: WireData, race_id: str) -> None:
    if data["race"]["race_id"] != race_id:
        raise WireError("data.race.event_id: is another race than the one asked for")
    seen: set[str] = set()
    for index, runner in enumerate(data["runners"]):
        if runner["entrant_id"] in seen:
            raise WireError(f"data.runners.{index}.entrant_id: is there twice")
        seen.add(runner["entrant_id"])


def _read_tracker(data: WireData) -> tuple[list[WireTrackerRow] | None, set[str]]:
    """The tracker's rows, without those of entrants whose share is not known, and these entrants."""
    rows = (data.get("money_tracker") or {}).get("entrants")
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    unclear: set[str] = set()
    for row in rows or ():
        if not {"hold_percentage", "bet_percentage"} <= row.keys():
            unclear.add(row["entrant_id"])
        sums[row["entrant_id"], "hold"] += row.get("hold_percentage", 0)
        sums[row["entrant_id"], "bet"] += row.get("bet_percentage", 0)
    unclear |= {entrant_id for (entrant_id, _), percent in sums.items() if percent > SHARE_SUM_MAX}
    return [row for row in rows if row["entrant_id"] not in unclear] if rows and unclear else rows, unclear


def _convert_event(
    event: WireEvent, received_at: datetime, tracker: Sequence[WireTrackerRow] | None, warnings: Sequence[str]
) -> dict[str, Any]:
    """The fields of a ``RaceEvent``, nested ones as maps."""
    data, race = event["data"], event["data"]["race"]
    fields = known(race, but=_RACE_CONVERTED) | {
        "status": race["status"].strip().lower(),
        "start_time": _from_epoch(race["start_time"]),
        "generated_at": (event.get("header") or {}).get("generated_time") or received_at,
        "received_at": received_at,
        "runners": [_convert_runner(runner) for runner in data["runners"]],
    }
    if warnings:
        more = [f"{len(warnings) - WARNINGS_MAX} more"] if len(warnings) > WARNINGS_MAX else []
        fields["warnings"] = [*warnings[:WARNINGS_MAX], *more]
    if start := race.get("actual_start"):
        fields["actual_start"] = _from_epoch(start)
    if (prize := (race.get("prize_monies") or {}).get("total_value")) is not None:
        fields["total_prize_money"] = prize
    lists: dict[str, Sequence[Mapping[str, object]] | None] = {
        "tracker": tracker,
        "tote_pools": data.get("tote_pools"),
        "results": data.get("results"),
    }
    fields |= {name: [known(row) for row in rows] for name, rows in lists.items() if rows is not None}
    if (dividends := data.get("dividends")) is not None:
        fields["dividends"] = [known(row) | {"positions": row.get("positions") or ()} for row in dividends]
    return fields


def _convert_runner(runner: WireRunner) -> dict[str, Any]:
    fields = known(runner, but=_RUNNER_CONVERTED)
    # The second address of a silk counts when there is no first.
    for url in ("silk_url_64x64", "silk_url_128x128"):
        if (other := fields.get(f"alt_{url}")) and not fields.get(url):
            fields[url] = other
    scratch_time = runner.get("scratch_time")
    # Its time says as much as the flag, should that be unreadable.
    fields["is_scratched"] = is_scratched = runner.get("is_scratched", bool(scratch_time))
    if scratch_time:
        fields["scratched_at"] = _from_epoch(scratch_time)
    elif scratch_time == 0 and not is_scratched:
        # A runner that was scratched may be back.
        fields |= dict.fromkeys(("scratched_at", "deduction_win", "deduction_place"))
    fields |= {f"deduction_{bet}": part for bet, part in (runner.get("deduction") or {}).items()}
    if (odds := runner.get("odds")) is not None:
        fields["odds"] = odds
    return fields


def _from_epoch(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
