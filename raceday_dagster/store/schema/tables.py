"""The schema: every table, key, check and index, and nothing else. ``migrations`` must lead to exactly this.

Text ids; instants are ``timestamptz``; racing days are plain dates (labels, not instants); money is integer cents; odds
are ``numeric(10,2)``; shares are percent, ``numeric(6,2)``. ``NULL`` means "not known". The history tables are
partitioned by racing day (see ``partitions``) and have no foreign key: creating a partition would otherwise wait for
every race write in flight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    Time,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
PARTITIONED_TABLES = ("money_flow_history", "odds_history", "pool_history")

metadata = MetaData(naming_convention=NAMES)

Instant = DateTime(timezone=True)
Odds = Numeric(10, 2)
Share = Numeric(6, 2)
Fraction = Numeric(5, 4)


def _columns(kind: Any, *names: str, nullable: bool = True) -> list[Column[Any]]:
    return [Column(name, kind, nullable=nullable) for name in names]


def _counts(names: Iterable[str], kind: Any = Integer) -> list[Column[Any]]:
    return [Column(name, kind, nullable=False, server_default=text("0")) for name in names]


def _row_times() -> list[Column[Any]]:
    """``updated_at`` moves only when a row really changes; see ``store.upsert``."""
    return [Column(name, Instant, nullable=False, server_default=func.now()) for name in ("created_at", "updated_at")]


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


racing_days = Table(
    "racing_days",
    metadata,
    Column("racing_day", Date, primary_key=True),
    Column("generated_at", Instant, nullable=False),
)
"""When the feed made the newest list of each racing day."""

meetings = Table(
    "meetings",
    metadata,
    Column("meeting_id", Text, primary_key=True),
    Column("meeting_name", Text, nullable=False, server_default=""),
    *_columns(Text, "country", "category", "race_type", nullable=False),
    Column("racing_day", Date, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    *_columns(Text, "state", "category_name", "track_condition", "track_surface", "track_direction"),
    *_columns(Text, "rail_position", "weather", "tote_status"),
    Column("tote_meeting_number", Integer),
    Column("tote_raceday_date", Date),
    Column("video_channels", ARRAY(Text)),
    Column("data_source", Text, nullable=False, server_default="NZTAB"),
    Column("api_generated_time", Instant),
    *_row_times(),
    _one_of("category", "T", "H", "G"),
    _one_of("race_type", "thoroughbred", "harness", "greyhound"),
    _one_of("status", "active", "completed", "cancelled"),
    Index("ix_meetings_active", "racing_day", "race_type", postgresql_where=text("status = 'active'")),
)

races = Table(
    "races",
    metadata,
    Column("race_id", Text, primary_key=True),
    Column("meeting_id", ForeignKey("meetings.meeting_id", ondelete="CASCADE"), nullable=False),
    Column("racing_day", Date, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("race_number", Integer, nullable=False),
    Column("start_time", Instant, nullable=False),
    Column("race_date_nz", Date),
    Column("start_time_nz", Time),
    Column("tote_start_time", Text),
    Column("actual_start", Instant),
    Column("status", Text, nullable=False, server_default="open"),
    Column("type", Text, nullable=False),
    *_columns(Text, "start_type", "track_condition", "track_surface", "weather", "silk_url", "protest_reason"),
    *_columns(Integer, "distance", "entrant_count", "field_size", "positions_paid"),
    Column("total_prize_money", Numeric(12, 2)),
    Column("video_channels", ARRAY(Text)),
    Column("protest", Boolean),
    *_columns(Instant, "last_poll_time", "last_status_change", "finalized_at", "abandoned_at", "api_generated_time"),
    *_row_times(),
    _one_of("status", "open", "closed", "interim", "final", "abandoned"),
    _one_of("type", "T", "H", "G"),
    Index("ix_races_unfinished", "start_time", postgresql_where=text("status IN ('open', 'closed', 'interim')")),
    Index("ix_races_meeting_id", "meeting_id"),
    Index("ix_races_racing_day", "racing_day", "race_number"),
    postgresql_with={"fillfactor": 80},
)

entrants = Table(
    "entrants",
    metadata,
    Column("entrant_id", Text, primary_key=True),
    Column("race_id", ForeignKey("races.race_id", ondelete="CASCADE"), nullable=False),
    Column("runner_number", Integer, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("barrier", Integer),
    Column("barrier_position", Text),
    Column("is_scratched", Boolean, nullable=False),
    *_columns(Boolean, "is_late_scratched", "is_emergency", "favourite", "mover"),
    *_columns(Instant, "scratched_at", "withdrawn_at"),
    *_columns(Fraction, "deduction_win", "deduction_place"),
    *_columns(Odds, "fixed_win_odds", "fixed_place_odds", "pool_win_odds", "pool_place_odds"),
    *_columns(Share, "hold_percentage", "bet_percentage", "win_pool_percentage", "place_pool_percentage"),
    *_columns(BigInteger, "win_pool_amount", "place_pool_amount"),
    *_columns(Text, "jockey", "trainer_name", "silk_colours", "silk_url_64x64", "silk_url_128x128"),
    *_columns(Text, "alt_silk_url_64x64", "alt_silk_url_128x128"),
    Column("runner_change", JSONB),
    *_row_times(),
    CheckConstraint("runner_number > 0", name="runner_number"),
    CheckConstraint("barrier >= 0", name="barrier"),
    Index("ix_entrants_race_id", "race_id", "runner_number"),
    Index("ix_entrants_starters", "race_id", postgresql_where=text("NOT is_scratched")),
    postgresql_with={"fillfactor": 80},
)

POOL_TOTALS = (
    *(f"{product}_pool_total" for product in ("win", "place", "quinella", "trifecta", "exacta", "first4")),
    "total_race_pool",
    "multi_leg_pool_total",
)

race_pools = Table(
    "race_pools",
    metadata,
    Column("race_id", ForeignKey("races.race_id", ondelete="CASCADE"), primary_key=True),
    *_counts(POOL_TOTALS, BigInteger),
    Column("currency", Text, nullable=False, server_default="NZD"),
    Column("source", Text, nullable=False),
    Column("data_quality_score", Integer),
    Column("extracted_pools", Integer),
    Column("last_updated", Instant),
    *_row_times(),
    _one_of("source", "tote_pools", "dividends"),
)

race_results = Table(
    "race_results",
    metadata,
    Column("race_id", ForeignKey("races.race_id", ondelete="CASCADE"), primary_key=True),
    Column("result_status", Text, nullable=False),
    Column("results", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("dividends", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("fixed_odds", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("protest_lodged", Boolean, nullable=False, server_default=text("false")),
    Column("result_time", Instant),
    *_row_times(),
    _one_of("result_status", "interim", "final", "protest"),
)

money_flow_history = Table(
    "money_flow_history",
    metadata,
    Column("racing_day", Date),
    *_columns(Text, "race_id", "entrant_id", nullable=False),
    *_columns(Instant, "polling_timestamp", "event_timestamp", nullable=False),
    Column("time_to_start_s", Integer, nullable=False),
    Column("time_interval", Numeric(9, 1), nullable=False),
    Column("interval_type", Text, nullable=False),
    *_columns(Share, "hold_percentage", "bet_percentage", nullable=False),
    *_columns(BigInteger, "win_pool_amount", "place_pool_amount", "total_pool_amount"),
    *_columns(Share, "win_pool_percentage", "place_pool_percentage"),
    *_columns(BigInteger, "incremental_win_amount", "incremental_place_amount"),
    Column("is_baseline", Boolean, nullable=False),
    *_columns(Odds, "fixed_win_odds", "fixed_place_odds", "pool_win_odds", "pool_place_odds"),
    PrimaryKeyConstraint("racing_day", "race_id", "entrant_id", "polling_timestamp"),
    _one_of("interval_type", "5m", "2m", "30s", "live"),
    Index("ix_money_flow_history_entrant", "race_id", "entrant_id", text("polling_timestamp DESC")),
    postgresql_partition_by="RANGE (racing_day)",
)

odds_history = Table(
    "odds_history",
    metadata,
    Column("racing_day", Date),
    *_columns(Text, "race_id", "entrant_id", "type", nullable=False),
    Column("odds", Odds, nullable=False),
    *_columns(Instant, "event_timestamp", "polling_timestamp", nullable=False),
    PrimaryKeyConstraint("racing_day", "race_id", "entrant_id", "type", "event_timestamp"),
    _one_of("type", "fixed_win", "fixed_place", "pool_win", "pool_place"),
    CheckConstraint("odds >= 1", name="odds"),
    Index("ix_odds_history_entrant", "entrant_id", "type", text("event_timestamp DESC")),
    postgresql_partition_by="RANGE (racing_day)",
)

pool_history = Table(
    "pool_history",
    metadata,
    Column("racing_day", Date),
    Column("race_id", Text, nullable=False),
    *_columns(Instant, "polling_timestamp", "event_timestamp", nullable=False),
    Column("time_to_start_s", Integer, nullable=False),
    Column("time_interval", Numeric(9, 1), nullable=False),
    *_columns(BigInteger, *POOL_TOTALS, nullable=False),
    PrimaryKeyConstraint("racing_day", "race_id", "polling_timestamp"),
    postgresql_partition_by="RANGE (racing_day)",
)
"""The totals of ``race_pools`` after each poll that changed one."""

market_signals = Table(
    "market_signals",
    metadata,
    Column("race_id", ForeignKey("races.race_id", ondelete="CASCADE"), nullable=False),
    *_columns(Text, "entrant_id", "kind", nullable=False),
    *_columns(Instant, "polling_timestamp", "compared_with", nullable=False),
    Column("racing_day", Date, nullable=False),
    Column("time_to_start_s", Integer, nullable=False),
    Column("time_interval", Numeric(9, 1), nullable=False),
    *_columns(Numeric(12, 2), "value_before", "value_now", "change", nullable=False),
    Column("tier", Text, nullable=False),
    *_columns(Boolean, "is_alert", "is_strong", "after_scratching", nullable=False),
    Column("computed_from", JSONB, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("race_id", "polling_timestamp", "entrant_id", "kind"),
    _one_of("kind", "money", "share", "price"),
    Index("ix_market_signals_racing_day", "racing_day", text("polling_timestamp DESC")),
)
"""What moved: one row a runner, poll and kind. ``change`` is in percentage points of money or share, or percent of the
price, positive when it shortens."""

COUNTED_TABLES = (
    "meetings",
    "races",
    "entrants",
    "race_pools",
    "money_flow_history",
    "odds_history",
    "race_results",
)
"""Tables whose changed rows are counted, in the order they are written; each has a ``<table>_rows`` in the ledger."""

race_polls = Table(
    "race_polls",
    metadata,
    *_columns(Text, "run_id", "race_id", nullable=False),
    Column("polled_at", Instant, nullable=False),
    Column("status", Text, nullable=False),
    *_counts(("fetch_ms", "transform_ms", "write_ms", "total_ms")),
    *_counts(f"{table}_rows" for table in COUNTED_TABLES),
    Column("quality_score", Integer),
    *_columns(Text, "error_stage", "error_type", "error_message"),
    Column("retryable", Boolean),
    Column("lane", Text),
    Column("due_at", Instant),
    PrimaryKeyConstraint("run_id", "race_id"),
    _one_of("status", "success", "skipped", "failed"),
    _one_of("error_stage", "fetch", "transform", "write"),
    Index("ix_race_polls_race_id", "race_id", text("polled_at DESC")),
    Index("ix_race_polls_polled_at", "polled_at", postgresql_using="brin"),
)

batches = Table(
    "batches",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("started_at", Instant, nullable=False),
    *_columns(Integer, "total_races", "successes", "skipped", "failures", "retryable_failures", nullable=False),
    *_columns(Integer, "max_duration_ms", "batch_duration_ms", nullable=False),
    Column("over_budget", Boolean, nullable=False),
    *_columns(Integer, "requested_concurrency", "effective_concurrency", "pool_max", "pool_peak", nullable=False),
)

image_descriptions = Table(
    "image_descriptions",
    metadata,
    Column("source", Text, primary_key=True),
    *_columns(Text, "content_hash", "title", "model", "error"),
    Column("status", Text, nullable=False),
    Column("keywords", ARRAY(Text)),
    *_columns(Integer, "category", "bytes_before", "bytes_after"),
    Column("preview", LargeBinary),
    *_row_times(),
    _one_of("status", "success", "skipped", "failed"),
    Index("ix_image_descriptions_content", "content_hash"),
)
"""What the vision API said of the image of each source: a file's path or a URL. ``skipped``: the description is that of
another source with the same content."""
