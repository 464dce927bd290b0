"""What a batch moved on the market: computed from what it has stored, logged, shown in the UI, and sent.

A batch is complete without any of this. What fails here is a warning and costs nobody anything.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from raceday_dagster.defs.reporting import build_listing
from raceday_dagster.defs.webhook import send_webhook
from raceday_dagster.errors import WriteError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import BatchOutcome
from raceday_dagster.racing.signals import Signal, Thresholds
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import FoundSignals, RaceStore, StoredPoll

NO_SIGNALS = FoundSignals((), ())
DEADLINE_S = 2.0
UNITS = {"money": "points", "share": "points", "price": "%"}


def find_batch_signals(
    context: dg.OpExecutionContext, outcome: BatchOutcome, settings: Settings, race_store: RaceStore
) -> FoundSignals:
    """The signals of the races that the batch stored: stored, and the news logged. None, and a warning, where they
    cannot be."""
    polls = [
        StoredPoll(race_id=race.race_id, polled_at=race.polled_at, start_time=race.race.start_time)
        for race in outcome.results
        if race.success and race.race
    ]
    if not polls:
        return NO_SIGNALS
    try:
        found = race_store.add_signals(polls, read_thresholds(settings), deadline_s=DEADLINE_S)
    except WriteError as error:
        get_logger(run_id=context.run_id).warning("signals_failed", races=len(polls), error=str(error))
        context.log.warning(f"The signals of {len(polls)} races were not computed: {error}")
        return NO_SIGNALS
    for signal in found.news:
        get_logger(race_id=signal.race_id, run_id=context.run_id).info("market_signal", **describe_signal(signal))
    return found


def read_thresholds(settings: Settings) -> Thresholds:
    """The settings whose names begin with ``SIGNAL_``, as ``racing.signals`` takes them."""
    return Thresholds(**{name: getattr(settings, f"signal_{name}") for name in Thresholds.model_fields})


def describe_signal(signal: Signal) -> dict[str, Any]:
    """A signal for the log and for a webhook."""
    return {
        "race": signal.race,
        "runner_number": signal.runner_number,
        "runner": signal.runner,
        "entrant_id": signal.entrant_id,
        "kind": signal.kind,
        "before": float(signal.value_before),
        "now": float(signal.value_now),
        "change": float(signal.change),
        "tier": signal.tier,
        "alert": signal.is_alert,
        "strong": signal.is_strong,
        "after_scratching": signal.after_scratching,
        "seconds_to_start": signal.time_to_start_s,
        "polled_at": signal.polling_timestamp.isoformat(),
        "compared_with": signal.compared_with.isoformat(),
    }


def build_signal_metadata(found: FoundSignals) -> dict[str, Any]:
    """How many signals there were, and the news among them as a Markdown table, alerts and the largest first; nothing
    without any."""
    if not found.signals:
        return {}
    ranked = sorted(found.news, key=lambda signal: (not signal.is_alert, -abs(signal.change)))
    head = "| race | runner | kind | before | now | change | tier | note |\n|---|---|---|--:|--:|--:|---|---|\n"
    table = build_listing(head, ranked, _list_cells, "market_signals") if ranked else "none"
    return {"signals": len(found.signals), "new_signals": dg.MetadataValue.md(table)}


def send_signals(context: dg.OpExecutionContext, news: Sequence[Signal], settings: Settings) -> None:
    """Sends the alerts among the news to ``SIGNAL_WEBHOOK_URL``, all in one POST; a failure is a warning."""
    alerts = [signal for signal in news if signal.is_alert]
    if not alerts or settings.signal_webhook_url is None:
        return
    body = {
        "run_id": context.run_id,
        "signals": [{"race_id": signal.race_id, **describe_signal(signal)} for signal in alerts],
    }
    if reason := send_webhook(settings.signal_webhook_url, body):
        get_logger(run_id=context.run_id).warning("signal_webhook_failed", signals=len(alerts), reason=reason)
        context.log.warning(f"{len(alerts)} signals were not sent to SIGNAL_WEBHOOK_URL: {reason}")


def _list_cells(signal: Signal) -> Iterator[object]:
    notes = (
        ("strong", signal.is_strong),
        ("drifting", signal.kind == "price" and signal.change < 0),
        ("after a scratching", signal.after_scratching),
    )
    yield from (signal.race, f"{signal.runner_number} {signal.runner}", signal.kind)
    yield from (signal.value_before, signal.value_now, f"{signal.change:+} {UNITS[signal.kind]}", signal.tier)
    yield ", ".join(note for note, applies in notes if applies)
