"""What Dagster's catalogue shows: the batches as they come, the races once they are over, the rules of the data.

The first two are not computed by Dagster: whoever summarises a batch reports them. Reporting must cost a batch nothing
but its own time: what cannot be read is left out.
"""

import base64
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg

from raceday_dagster.defs.failures import failing_plainly
from raceday_dagster.defs.partitions import RACES, find_partitions, race_partitions, register_races
from raceday_dagster.defs.reporting import build_row, link_race
from raceday_dagster.errors import DatabaseError
from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.outcomes import BatchOutcome
from raceday_dagster.store.data_checks import RULES, Violation, find_violations
from raceday_dagster.store.queries import SettledRace, read_race_keys, read_settled_races
from raceday_dagster.store.race_store import RaceStore

STAGES = ("fetch_ms", "transform_ms", "write_ms", "total_ms")
SHOWN_VIOLATIONS = 20
CHART_WIDTH, CHART_HEIGHT = 360, 90
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

RACE_BATCHES = dg.AssetSpec(
    "race_batches",
    description="Polls of the races that are due, a materialization a batch. Loads of a whole day are not in it.",
    group_name=RACES,
    kinds={"postgres"},
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(minutes=10), warn_window=timedelta(minutes=3)
    ),
)
SETTLED_RACES = dg.AssetSpec(
    "settled_races",
    description="Races that are final or abandoned: how they were followed, and where the money went.",
    group_name=RACES,
    kinds={"postgres"},
    partitions_def=race_partitions,
    deps=[RACE_BATCHES],
)


def describe_batch(outcome: BatchOutcome, due_at: datetime | None) -> dg.AssetMaterialization:
    """A batch as a point of each of the asset's plots."""
    ended = [race for race in outcome.races if race.success]
    figures: dict[str, int | float] = {
        "races": outcome.total_races,
        "failures": outcome.failures,
        "skipped": outcome.skipped,
        "batch_ms": outcome.batch_duration_ms,
        "pool_peak": outcome.db_pool.peak,
    }
    for stage in STAGES:
        taken = [getattr(race.timings, stage) for race in ended]
        if taken:
            figures |= {f"{stage}_p50": float(statistics.median(taken)), f"{stage}_max": max(taken)}
    if due_at is not None and ended:
        late_s = (
            (race.polled_at - due_at).total_seconds() + (race.timings.total_ms - race.timings.fetch_ms) / 1000
            for race in ended
        )
        figures["due_to_committed_s"] = round(max(late_s), 3)
    return dg.AssetMaterialization("race_batches", metadata=figures)


def describe_settled(
    instance: dg.DagsterInstance, race_store: RaceStore, race_ids: Collection[str]
) -> Iterator[dg.AssetMaterialization]:
    """Those of these races that are over and that the catalogue does not show yet, each a partition of its asset.

    Raises:
        DatabaseError: The database cannot be used.
    """
    keys = race_store.read(read_race_keys, race_ids)
    if not keys:
        return
    register_races(instance, keys.values())
    names = find_partitions(instance, keys.values())
    partitions = {race_id: names[key] or key for race_id, key in keys.items()}
    shown = dg.AssetRecordsFilter(asset_key=SETTLED_RACES.key, asset_partitions=list(partitions.values()))
    known = {record.partition_key for record in instance.fetch_materializations(shown, limit=len(keys)).records}
    unknown = [race_id for race_id, partition in partitions.items() if partition not in known]
    for race in race_store.read(read_settled_races, unknown):
        partition = partitions[race.race_id]
        yield dg.AssetMaterialization("settled_races", partition=partition, metadata=build_settled_metadata(race))


def report_settled(context: dg.OpExecutionContext, race_store: RaceStore, race_ids: Collection[str]) -> None:
    """Tells the catalogue which of these races are over, once each. What cannot be read is a warning."""
    try:
        for materialization in describe_settled(context.instance, race_store, race_ids):
            context.log_event(materialization)
    except DatabaseError as error:
        context.log.warning(f"The races that are over are not shown in the catalogue: {error}")


def build_settled_metadata(race: SettledRace) -> dict[str, Any]:
    """The figures of a race that is over, the link to its page and a chart of its shares."""
    figures: dict[str, Any] = {
        "race": dg.MetadataValue.md(link_race(race.title, race.race_id)),
        "race_id": race.race_id,
        "status": race.status,
        "polls": race.polls,
        "win_pool_dollars": (race.win_pool_total or 0) / 100,
        "race_pool_dollars": (race.total_race_pool or 0) / 100,
        "signals": race.signals,
    }
    if race.longest_gap_s is not None:
        figures["longest_gap_last_5_min_s"] = race.longest_gap_s
    if race.shares and max(map(len, race.shares.values())) > 1:
        figures["shares"] = dg.MetadataValue.md(draw_shares(race.shares))
    return figures


def draw_shares(shares_by_runner: Mapping[int, Sequence[Decimal]]) -> str:
    """The shares of the four runners with most of the money, over the polls, as an image in Markdown."""
    runners = sorted(shares_by_runner.items(), key=lambda item: -item[1][-1])[: len(COLOURS)]
    highest = max(max(shares) for _, shares in runners) or 1
    lines = []
    for (_, shares), colour in zip(runners, COLOURS, strict=False):
        step = CHART_WIDTH / max(1, len(shares) - 1)
        points = " ".join(
            f"{index * step:.0f},{CHART_HEIGHT - (CHART_HEIGHT - 4) * share / highest:.0f}"
            for index, share in enumerate(shares)
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    size = f'width="{CHART_WIDTH}" height="{CHART_HEIGHT}" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(lines)}</svg>'
    named = ", ".join(f"{number}: {shares[-1]:.0f} %" for number, shares in runners)
    return f"![shares](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})\n\n{named}"


@dg.multi_asset_check(
    name="data_rules",
    specs=[dg.AssetCheckSpec(rule.name, asset=RACE_BATCHES.key, description=rule.description) for rule in RULES],
)
def check_data(race_store: dg.ResourceParam[RaceStore]) -> Iterable[dg.AssetCheckResult]:
    """Asks whether the stored data of the racing day under way keeps its rules."""
    racing_day = choose_current_racing_day(datetime.now(UTC))
    for rule in RULES:
        with failing_plainly():
            violations = race_store.read(find_violations, rule, racing_day)
        yield dg.AssetCheckResult(
            asset_key=RACE_BATCHES.key,
            check_name=rule.name,
            passed=not violations,
            severity=dg.AssetCheckSeverity.ERROR if rule.is_error else dg.AssetCheckSeverity.WARN,
            metadata={
                "racing_day": racing_day.isoformat(),
                "races": len(violations),
                "found": dg.MetadataValue.md(build_table(violations)),
            },
        )


def build_table(violations: Sequence[Violation]) -> str:
    """A Markdown table of the first violations."""
    if not violations:
        return "none"
    rows = (build_row((each.race, each.problem)) for each in violations[:SHOWN_VIOLATIONS])
    return "| race | |\n|---|---|\n" + "".join(rows)
