"""The first schema: the race day, its two histories and the ledger."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

RACE_DAY = """
CREATE TABLE racing_days (
    racing_day date CONSTRAINT pk_racing_days PRIMARY KEY,
    generated_at timestamptz NOT NULL
);

CREATE TABLE meetings (
    meeting_id text CONSTRAINT pk_meetings PRIMARY KEY,
    meeting_name text NOT NULL DEFAULT '',
    country text NOT NULL,
    category text NOT NULL CONSTRAINT ck_meetings_category CHECK (category IN ('T', 'H', 'G')),
    race_type text NOT NULL
        CONSTRAINT ck_meetings_race_type CHECK (race_type IN ('thoroughbred', 'harness', 'greyhound')),
    racing_day date NOT NULL,
    status text NOT NULL DEFAULT 'active'
        CONSTRAINT ck_meetings_status CHECK (status IN ('active', 'completed', 'cancelled')),
    state text, category_name text, track_condition text, track_surface text, track_direction text,
    rail_position text, weather text, tote_status text,
    tote_meeting_number integer,
    tote_raceday_date date,
    video_channels text[],
    data_source text NOT NULL DEFAULT 'NZTAB',
    api_generated_time timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_meetings_active ON meetings (racing_day, race_type) WHERE status = 'active';

CREATE TABLE races (
    race_id text CONSTRAINT pk_races PRIMARY KEY,
    meeting_id text NOT NULL CONSTRAINT fk_races_meeting_id REFERENCES meetings (meeting_id) ON DELETE CASCADE,
    racing_day date NOT NULL,
    name text NOT NULL DEFAULT '',
    race_number integer NOT NULL,
    start_time timestamptz NOT NULL,
    race_date_nz date,
    start_time_nz time,
    tote_start_time text,
    actual_start timestamptz,
    status text NOT NULL DEFAULT 'open'
        CONSTRAINT ck_races_status CHECK (status IN ('open', 'closed', 'interim', 'final', 'abandoned')),
    type text NOT NULL CONSTRAINT ck_races_type CHECK (type IN ('T', 'H', 'G')),
    start_type text, track_condition text, track_surface text, weather text, silk_url text, protest_reason text,
    distance integer, entrant_count integer, field_size integer, positions_paid integer,
    total_prize_money numeric(12, 2),
    video_channels text[],
    protest boolean,
    last_poll_time timestamptz, last_status_change timestamptz, finalized_at timestamptz, abandoned_at timestamptz,
    api_generated_time timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX ix_races_unfinished ON races (start_time) WHERE status IN ('open', 'closed', 'interim');
CREATE INDEX ix_races_meeting_id ON races (meeting_id);
CREATE INDEX ix_races_racing_day ON races (racing_day, race_number);

CREATE TABLE entrants (
    entrant_id text CONSTRAINT pk_entrants PRIMARY KEY,
    race_id text NOT NULL CONSTRAINT fk_entrants_race_id REFERENCES races (race_id) ON DELETE CASCADE,
    runner_number integer NOT NULL CONSTRAINT ck_entrants_runner_number CHECK (runner_number > 0),
    name text NOT NULL DEFAULT '',
    barrier integer CONSTRAINT ck_entrants_barrier CHECK (barrier >= 0),
    barrier_position text,
    is_scratched boolean NOT NULL,
    is_late_scratched boolean, is_emergency boolean, favourite boolean, mover boolean,
    scratched_at timestamptz,
    deduction_win numeric(5, 4), deduction_place numeric(5, 4),
    fixed_win_odds numeric(10, 2), fixed_place_odds numeric(10, 2),
    pool_win_odds numeric(10, 2), pool_place_odds numeric(10, 2),
    hold_percentage numeric(6, 2), bet_percentage numeric(6, 2),
    win_pool_percentage numeric(6, 2), place_pool_percentage numeric(6, 2),
    win_pool_amount bigint, place_pool_amount bigint,
    jockey text, trainer_name text, silk_colours text, silk_url_64x64 text, silk_url_128x128 text,
    runner_change jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX ix_entrants_race_id ON entrants (race_id, runner_number);
CREATE INDEX ix_entrants_starters ON entrants (race_id) WHERE NOT is_scratched;

CREATE TABLE race_pools (
    race_id text CONSTRAINT pk_race_pools PRIMARY KEY
        CONSTRAINT fk_race_pools_race_id REFERENCES races (race_id) ON DELETE CASCADE,
    win_pool_total bigint NOT NULL DEFAULT 0, place_pool_total bigint NOT NULL DEFAULT 0,
    quinella_pool_total bigint NOT NULL DEFAULT 0, trifecta_pool_total bigint NOT NULL DEFAULT 0,
    exacta_pool_total bigint NOT NULL DEFAULT 0, first4_pool_total bigint NOT NULL DEFAULT 0,
    total_race_pool bigint NOT NULL DEFAULT 0, multi_leg_pool_total bigint NOT NULL DEFAULT 0,
    currency text NOT NULL DEFAULT 'NZD',
    source text NOT NULL CONSTRAINT ck_race_pools_source CHECK (source IN ('tote_pools', 'dividends')),
    data_quality_score integer,
    extracted_pools integer,
    last_updated timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE race_results (
    race_id text CONSTRAINT pk_race_results PRIMARY KEY
        CONSTRAINT fk_race_results_race_id REFERENCES races (race_id) ON DELETE CASCADE,
    result_status text NOT NULL
        CONSTRAINT ck_race_results_result_status CHECK (result_status IN ('interim', 'final', 'protest')),
    results jsonb NOT NULL DEFAULT '[]'::jsonb, dividends jsonb NOT NULL DEFAULT '[]'::jsonb,
    fixed_odds jsonb NOT NULL DEFAULT '{}'::jsonb,
    protest_lodged boolean NOT NULL DEFAULT false,
    result_time timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
)
"""

HISTORY = """
CREATE TABLE money_flow_history (
    racing_day date,
    race_id text NOT NULL,
    entrant_id text NOT NULL,
    polling_timestamp timestamptz NOT NULL,
    event_timestamp timestamptz NOT NULL,
    time_to_start_s integer NOT NULL,
    time_interval numeric(9, 1) NOT NULL,
    interval_type text NOT NULL
        CONSTRAINT ck_money_flow_history_interval_type CHECK (interval_type IN ('5m', '2m', '30s', 'live')),
    hold_percentage numeric(6, 2) NOT NULL, bet_percentage numeric(6, 2) NOT NULL,
    win_pool_amount bigint, place_pool_amount bigint, total_pool_amount bigint,
    win_pool_percentage numeric(6, 2), place_pool_percentage numeric(6, 2),
    incremental_win_amount bigint, incremental_place_amount bigint,
    is_baseline boolean NOT NULL,
    fixed_win_odds numeric(10, 2), fixed_place_odds numeric(10, 2),
    pool_win_odds numeric(10, 2), pool_place_odds numeric(10, 2),
    CONSTRAINT pk_money_flow_history PRIMARY KEY (racing_day, race_id, entrant_id, polling_timestamp)
) PARTITION BY RANGE (racing_day);
CREATE INDEX ix_money_flow_history_entrant ON money_flow_history (race_id, entrant_id, polling_timestamp DESC);

CREATE TABLE odds_history (
    racing_day date,
    race_id text NOT NULL,
    entrant_id text NOT NULL,
    type text NOT NULL
        CONSTRAINT ck_odds_history_type CHECK (type IN ('fixed_win', 'fixed_place', 'pool_win', 'pool_place')),
    odds numeric(10, 2) NOT NULL CONSTRAINT ck_odds_history_odds CHECK (odds >= 1),
    event_timestamp timestamptz NOT NULL,
    polling_timestamp timestamptz NOT NULL,
    CONSTRAINT pk_odds_history PRIMARY KEY (racing_day, race_id, entrant_id, type, event_timestamp)
) PARTITION BY RANGE (racing_day);
CREATE INDEX ix_odds_history_entrant ON odds_history (entrant_id, type, event_timestamp DESC)
"""

LEDGER = """
CREATE TABLE race_polls (
    run_id text NOT NULL,
    race_id text NOT NULL,
    polled_at timestamptz NOT NULL,
    status text NOT NULL CONSTRAINT ck_race_polls_status CHECK (status IN ('success', 'skipped', 'failed')),
    fetch_ms integer NOT NULL DEFAULT 0, transform_ms integer NOT NULL DEFAULT 0,
    write_ms integer NOT NULL DEFAULT 0, total_ms integer NOT NULL DEFAULT 0,
    meetings_rows integer NOT NULL DEFAULT 0, races_rows integer NOT NULL DEFAULT 0,
    entrants_rows integer NOT NULL DEFAULT 0, race_pools_rows integer NOT NULL DEFAULT 0,
    money_flow_history_rows integer NOT NULL DEFAULT 0, odds_history_rows integer NOT NULL DEFAULT 0,
    race_results_rows integer NOT NULL DEFAULT 0,
    quality_score integer,
    error_stage text
        CONSTRAINT ck_race_polls_error_stage CHECK (error_stage IN ('fetch', 'transform', 'write')),
    error_type text, error_message text,
    retryable boolean,
    CONSTRAINT pk_race_polls PRIMARY KEY (run_id, race_id)
);
CREATE INDEX ix_race_polls_race_id ON race_polls (race_id, polled_at DESC);

CREATE TABLE batches (
    run_id text CONSTRAINT pk_batches PRIMARY KEY,
    started_at timestamptz NOT NULL,
    total_races integer NOT NULL, successes integer NOT NULL, skipped integer NOT NULL, failures integer NOT NULL,
    retryable_failures integer NOT NULL, max_duration_ms integer NOT NULL, batch_duration_ms integer NOT NULL,
    over_budget boolean NOT NULL,
    requested_concurrency integer NOT NULL, effective_concurrency integer NOT NULL,
    pool_max integer NOT NULL, pool_peak integer NOT NULL
)
"""


def upgrade() -> None:
    for statements in (RACE_DAY, HISTORY, LEDGER):
        op.execute(statements)
