"""What a batch moved on the market: computed from what it has stored, logged, shown in the UI, and sent.

A batch is complete without any of this. What fails here is a warning and costs nobody anything.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from raceday_dagster.defs.webhook import send_webhook
from raceday_dagster.errors import WriteError
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.outcomes import BatchOutcome
from raceday_dagster.racing.signals import Signal, Thresholds
from raceday_dagster.settings import Settings
from raceday_dagster.store.race_store import RaceStore, StoredPoll

DEADLINE_S = 2.0
SHOWN_SIGNALS = 50
"""Rows of the table in the UI; the table market_signals has them all."""
UNITS = {"money": "points", "share": "points", "price": "%"}


def find_batch_signals(
    context: dg.OpExecutionContext, outcome: BatchOutcome, settings: Settings, race_store: RaceStore
) -> list[Signal]:
    """The signals of the races that the batch stored, stored and logged; none, and a warning, where they cannot be."""
    polls = [
        StoredPoll(race_id=race.race_id, polled_at=race.polled_at, start_time=race.race.start_time)
        for race in outcome.results
        if race.success and race.race
    ]
    if not polls:
        return []
    try:
        signals = race_store.add_signals(polls, read_thresholds(settings), deadline_s=DEADLINE_S)
    except WriteError as error:
        get_logger(run_id=context.run_id).warning("signals_failed", races=len(polls), error=str(error))
        context.log.warning(f"The signals of {len(polls)} races were not computed: {error}")
        return []
    for signal in signals:
        log_signal(context.run_id, signal)
    return signals


def read_thresholds(settings: Settings) -> Thresholds:
    """The settings whose names begin with ``SIGNAL_``, as ``racing.signals`` takes them."""
    return Thresholds(**{name: getattr(settings, f"signal_{name}") for name in Thresholds.model_fields})


def log_signal(run_id: str, signal: Signal) -> None:
    """One signal as a line."""
    get_logger(race_id=signal.race_id, run_id=run_id).info("market_signal", **describe_signal(signal))


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


def build_signal_metadata(signals: Sequence[Signal]) -> dict[str, Any]:
    """How many signals there were, and the largest as a Markdown table; nothing without any."""
    if not signals:
        return {}
    ranked = sorted(signals, key=lambda signal: (not signal.is_alert, -abs(signal.change)))
    head = "| race | runner | kind | before | now | change | tier | note |\n|---|---|---|--:|--:|--:|---|---|\n"
    rows = "".join(map(_build_row, ranked[:SHOWN_SIGNALS]))
    more = len(ranked) - SHOWN_SIGNALS
    table = head + rows + (f"\n… and {more} more in the table `market_signals`\n" if more > 0 else "")
    return {
        "alerts": sum(signal.is_alert for signal in signals),
        "signals": dg.MetadataValue.md(table),
    }


def send_signals(context: dg.OpExecutionContext, signals: Sequence[Signal], settings: Settings) -> None:
    """Sends the alerts among the signals to ``SIGNAL_WEBHOOK_URL``, all in one POST; a failure is a warning."""
    alerts = [signal for signal in signals if signal.is_alert]
    if not alerts or settings.signal_webhook_url is None:
        return
    body = {
        "run_id": context.run_id,
        "signals": [{"race_id": signal.race_id, **describe_signal(signal)} for signal in alerts],
    }
    if reason := send_webhook(settings.signal_webhook_url, body):
        get_logger(run_id=context.run_id).warning("signal_webhook_failed", signals=len(alerts), reason=reason)
        context.log.warning(f"{len(alerts)} signals were not sent to SIGNAL_WEBHOOK_URL: {reason}")


def _build_row(signal: Signal) -> str:
    notes = (
        ("strong", signal.is_strong),
        ("drifting", signal.kind == "price" and signal.change < 0),
        ("after a scratching", signal.after_scratching),
    )
    cells = (
        signal.race,
        f"{signal.runner_number} {signal.runner}",
        signal.kind,
        signal.value_before,
        signal.value_now,
        f"{signal.change:+} {UNITS[signal.kind]}",
        signal.tier,
        ", ".join(note for note, applies in notes if applies),
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"
