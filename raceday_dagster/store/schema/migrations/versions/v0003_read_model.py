"""What people and models read: pool totals over time, signals, and views whose every column says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
ALTER TABLE race_polls ADD COLUMN lane text, ADD COLUMN due_at timestamptz;

CREATE TABLE pool_history (
    racing_day date,
    race_id text NOT NULL,
    polling_timestamp timestamptz NOT NULL,
    event_timestamp timestamptz NOT NULL,
    time_to_start_s integer NOT NULL,
    time_interval numeric(9, 1) NOT NULL,
    win_pool_total bigint NOT NULL, place_pool_total bigint NOT NULL,
    quinella_pool_total bigint NOT NULL, trifecta_pool_total bigint NOT NULL,
    exacta_pool_total bigint NOT NULL, first4_pool_total bigint NOT NULL,
    total_race_pool bigint NOT NULL, multi_leg_pool_total bigint NOT NULL,
    CONSTRAINT pk_pool_history PRIMARY KEY (racing_day, race_id, polling_timestamp)
) PARTITION BY RANGE (racing_day);

CREATE TABLE market_signals (
    race_id text NOT NULL
        CONSTRAINT fk_market_signals_race_id REFERENCES races (race_id) ON DELETE CASCADE,
    entrant_id text NOT NULL,
    kind text NOT NULL CONSTRAINT ck_market_signals_kind CHECK (kind IN ('money', 'share', 'price')),
    polling_timestamp timestamptz NOT NULL, compared_with timestamptz NOT NULL,
    racing_day date NOT NULL,
    time_to_start_s integer NOT NULL,
    time_interval numeric(9, 1) NOT NULL,
    value_before numeric(12, 2) NOT NULL, value_now numeric(12, 2) NOT NULL, change numeric(12, 2) NOT NULL,
    tier text NOT NULL,
    is_alert boolean NOT NULL, is_strong boolean NOT NULL, after_scratching boolean NOT NULL,
    computed_from jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_market_signals PRIMARY KEY (race_id, polling_timestamp, entrant_id, kind)
);
CREATE INDEX ix_market_signals_racing_day ON market_signals (racing_day, polling_timestamp DESC)
"""


class View(NamedTuple):
    """A view: for each column its expression and its comment; ``source`` is the rest of the query, from ``FROM``."""

    name: str
    comment: str
    columns: Mapping[str, tuple[str, str]]
    source: str

    def create(self) -> None:
        selected = ",\n    ".join(f"{expression} AS {name}" for name, (expression, _) in self.columns.items())
        op.execute(f"CREATE VIEW {self.name} AS SELECT\n    {selected}\n{self.source}")
        op.execute(f"COMMENT ON VIEW {self.name} IS '{self.comment}'")
        for name, (_, comment) in self.columns.items():
            op.execute(f"COMMENT ON COLUMN {self.name}.{name} IS '{comment}'")


RACE_ID = {"race_id": ("race.race_id", "Id of the race at the TAB.")}
RUNNER = {
    "entrant_id": ("entrant.entrant_id", "Id of the runner in this race at the TAB."),
    "runner_number": ("entrant.runner_number", "The number the runner carries."),
    "name": ("entrant.name", "The runner."),
}
SECONDS_TO_START = "round(extract(epoch FROM race.start_time - now()))::integer"
PRICES = {
    "fixed_win": "Fixed odds to win, dollars for one.",
    "fixed_place": "Fixed odds for a place, dollars for one.",
    "pool_win": "Approximate dividend of the win pool, dollars for one.",
    "pool_place": "Approximate dividend of the place pool, dollars for one.",
}
POOLS = {
    "win_pool_total": "Win pool, cents.",
    "place_pool_total": "Place pool, cents.",
    "quinella_pool_total": "Quinella pool, cents.",
    "trifecta_pool_total": "Trifecta pool, cents.",
    "exacta_pool_total": "Exacta pool, cents.",
    "first4_pool_total": "First 4 pool, cents.",
    "total_race_pool": "All pools of this race alone, cents.",
    "multi_leg_pool_total": "Pools over several races that this race is a leg of, cents.",
}
INTERVAL = {
    "time_interval": (
        "flow.time_interval",
        "Minutes to the advertised start, as a bucket: 60, 55 … 5, 4, 3, 2, 1, 0, then half minutes below 0.",
    ),
}
# The histories are joined sideways, and OFFSET 0 keeps it so: the planner then looks into the partition of the race's
# own day, where it would otherwise ask all of them for the race.

RACE_CARD = View(
    "race_card",
    "The races: a line for each, with its meeting, its status, the time to its start and its pools.",
    RACE_ID
    | {
        "racing_day": ("race.racing_day", "The day whose programme the race belongs to, as the TAB labels it."),
        "meeting_id": ("race.meeting_id", "Id of the meeting at the TAB."),
        "meeting_name": ("meeting.meeting_name", "Name of the meeting."),
        "country": ("meeting.country", "Country of the meeting, as the TAB writes it."),
        "category": ("race.type", "T thoroughbred, H harness, G greyhound."),
        "race_number": ("race.race_number", "Number of the race at its meeting."),
        "race_name": ("race.name", "Name of the race."),
        "start_time": ("race.start_time", "Advertised start."),
        "actual_start": ("race.actual_start", "When the race really started, where the feed says so."),
        "seconds_to_start": (SECONDS_TO_START, "Seconds from now to the advertised start; negative after it."),
        "status": ("race.status", "open, closed, interim, final or abandoned."),
        "is_over": ("race.status IN ('final', 'abandoned')", "Whether the race is final or abandoned."),
        "distance": ("race.distance", "Metres."),
        "track_condition": ("coalesce(race.track_condition, meeting.track_condition)", "Condition of the track."),
        "weather": ("coalesce(race.weather, meeting.weather)", "Weather at the track."),
        "total_prize_money": ("race.total_prize_money", "Prize money, dollars."),
        "runners": (
            "(SELECT count(*)::integer FROM entrants AS entrant WHERE entrant.race_id = race.race_id "
            "AND NOT entrant.is_scratched AND entrant.withdrawn_at IS NULL)",
            "Runners that are neither scratched nor withdrawn.",
        ),
        "answered_at": ("race.last_poll_time", "When the newest answer that is stored arrived, by our clock."),
        "seconds_since_answer": (
            "round(extract(epoch FROM now() - race.last_poll_time))::integer",
            "Seconds from then to now.",
        ),
        "generated_at": ("race.api_generated_time", "When the feed made that answer, by its clock."),
        **{name: (f"pool.{name}", comment) for name, comment in POOLS.items()},
        "currency": ("pool.currency", "Currency of the pools."),
        "result_status": ("result.result_status", "interim, protest or final; null without a result."),
    },
    """FROM races AS race
JOIN meetings AS meeting USING (meeting_id)
LEFT JOIN race_pools AS pool USING (race_id)
LEFT JOIN race_results AS result USING (race_id)""",
)
RACE_GRID = View(
    "race_grid",
    "The runners of each race, a line for each, with what is on them now.",
    RACE_ID
    | RUNNER
    | {
        "is_runner": (
            "NOT entrant.is_scratched AND entrant.withdrawn_at IS NULL",
            "Whether it runs, as far as is known: neither scratched nor withdrawn.",
        ),
        "is_scratched": ("entrant.is_scratched", "Whether it was scratched."),
        "scratched_at": ("entrant.scratched_at", "When it was scratched, where the feed says so."),
        "withdrawn_at": (
            "entrant.withdrawn_at",
            "Since when the feed does not list it any more; null for a listed one.",
        ),
        "barrier": ("entrant.barrier", "Barrier or box it starts from."),
        "jockey": ("entrant.jockey", "Jockey or driver."),
        "trainer_name": ("entrant.trainer_name", "Trainer."),
        **{
            f"{name}_odds": (f"CASE WHEN entrant.withdrawn_at IS NULL THEN entrant.{name}_odds END", comment)
            for name, comment in PRICES.items()
        },
        "hold_percentage": ("entrant.hold_percentage", "Share of the money that is on it, percent."),
        "bet_percentage": ("entrant.bet_percentage", "Share of the bets that are on it, percent."),
        "win_pool_amount": ("entrant.win_pool_amount", "Its share of the win pool, cents."),
        "place_pool_amount": ("entrant.place_pool_amount", "Its share of the place pool, cents."),
        "favourite": ("entrant.favourite", "Whether the TAB names it the favourite."),
        "mover": ("entrant.mover", "Whether the TAB says that its price moved."),
        "silk_colours": ("entrant.silk_colours", "Colours of the silk, in words."),
        "silk_url": ("coalesce(entrant.silk_url_128x128, entrant.silk_url_64x64)", "Picture of the silk at the TAB."),
    },
    "FROM races AS race JOIN entrants AS entrant USING (race_id)",
)
MONEY_FLOW_TIMELINE = View(
    "money_flow_timeline",
    "The money that came in for a runner in each interval before the start; baselines, which are not increments, are "
    "left out of the sums. Archived days are not in it.",
    RACE_ID
    | RUNNER
    | INTERVAL
    | {
        "win_money": (
            "flow.win_money",
            "Money that came into the win pool for it in the interval, cents; negative when its share fell.",
        ),
        "place_money": ("flow.place_money", "The same for the place pool, cents."),
        "hold_percentage": ("newest.hold_percentage", "Its share of the money at the end of it, percent."),
        "fixed_win_odds": ("newest.fixed_win_odds", "Fixed odds to win at the end of the interval."),
        "fixed_place_odds": (
            "newest.fixed_place_odds",
            "Fixed odds for a place at the end of the interval.",
        ),
        "polls": ("flow.polls", "Observations in the interval."),
        "first_polled_at": ("flow.first_polled_at", "The first of them, by our clock."),
        "last_polled_at": ("flow.last_polled_at", "The last of them, by our clock."),
    },
    """FROM races AS race
CROSS JOIN LATERAL (
    SELECT entrant_id, time_interval, count(*)::integer AS polls,
        (sum(incremental_win_amount) FILTER (WHERE NOT is_baseline))::bigint AS win_money,
        (sum(incremental_place_amount) FILTER (WHERE NOT is_baseline))::bigint AS place_money,
        min(polling_timestamp) AS first_polled_at, max(polling_timestamp) AS last_polled_at
    FROM money_flow_history AS history
    WHERE history.racing_day = race.racing_day AND history.race_id = race.race_id
    GROUP BY entrant_id, time_interval
) AS flow
CROSS JOIN LATERAL (
    SELECT hold_percentage, fixed_win_odds, fixed_place_odds FROM money_flow_history AS history
    WHERE history.racing_day = race.racing_day AND history.race_id = race.race_id
        AND history.entrant_id = flow.entrant_id AND history.polling_timestamp = flow.last_polled_at OFFSET 0
) AS newest
JOIN entrants AS entrant ON entrant.entrant_id = flow.entrant_id AND entrant.race_id = race.race_id""",
)
ODDS_TIMELINE = View(
    "odds_timeline",
    "Every price that a runner had, from when on. Archived days are not in it.",
    RACE_ID
    | RUNNER
    | {
        "type": ("price.type", "fixed_win, fixed_place, pool_win or pool_place."),
        "odds": ("price.odds", "Dollars for one."),
        "quoted_at": ("price.event_timestamp", "Since when it was the price, by the clock of the feed."),
        "seconds_to_start": (
            "round(extract(epoch FROM race.start_time - price.event_timestamp))::integer",
            "Seconds from then to the advertised start; negative after it.",
        ),
    },
    """FROM races AS race
CROSS JOIN LATERAL (
    SELECT * FROM odds_history AS history
    WHERE history.racing_day = race.racing_day AND history.race_id = race.race_id OFFSET 0
) AS price
JOIN entrants AS entrant ON entrant.entrant_id = price.entrant_id AND entrant.race_id = race.race_id""",
)
AT_START = """(SELECT price.odds FROM odds_history AS price
        WHERE price.racing_day = race.racing_day AND price.race_id = race.race_id
            AND price.entrant_id = entrant.entrant_id AND price.type = '{}'
            AND price.event_timestamp <= coalesce(race.actual_start, race.start_time)
        ORDER BY price.event_timestamp DESC LIMIT 1)"""
ODDS_AT_START = View(
    "odds_at_start",
    "The last prices of each runner before the race started: at its real start where that is known, else the "
    "advertised one; of a race that has not started, the newest. Archived days have none.",
    RACE_ID
    | RUNNER
    | {
        "started_at": ("coalesce(race.actual_start, race.start_time)", "The start that was taken."),
        **{f"{name}_odds": (AT_START.format(name), comment) for name, comment in PRICES.items()},
    },
    """FROM races AS race JOIN entrants AS entrant USING (race_id)
WHERE NOT entrant.is_scratched AND entrant.withdrawn_at IS NULL""",
)
# A final race still carries its interim dividends, which after a protest are of others.
DIVIDEND = """(SELECT max((dividend.value ->> 'dividend')::numeric(10, 2))
        FROM jsonb_array_elements(result.dividends) AS dividend (value)
        WHERE dividend.value ->> 'product_name' = '{}'
            AND (dividend.value ->> 'status' IS DISTINCT FROM 'Interim'
                OR NOT result.dividends @> jsonb_build_array(jsonb_build_object('status', 'Final')))
            AND dividend.value -> 'positions' @> jsonb_build_array(
                jsonb_build_object('runner_number', placed.value -> 'runner_number')))"""
RACE_RESULT = View(
    "race_result",
    "The runners that a result places, a line for each. In a dead heat two have the same position, and the next is "
    "left out.",
    RACE_ID
    | {
        "result_status": ("result.result_status", "interim, protest or final."),
        "position": ("(placed.value ->> 'position')::integer", "Place in which it came in."),
        "runner_number": ("(placed.value ->> 'runner_number')::integer", "The number the runner carries."),
        "entrant_id": ("placed.value ->> 'entrant_id'", "Id of the runner in this race at the TAB."),
        "name": ("placed.value ->> 'name'", "The runner."),
        "margin_length": ("(placed.value ->> 'margin_length')::numeric", "Lengths behind the winner."),
        "win_dividend": (DIVIDEND.format("Pool Win"), "Dividend of the win pool, dollars for one."),
        "place_dividend": (DIVIDEND.format("Pool Place"), "Dividend of the place pool, dollars for one."),
        "fixed_win_odds": (
            "(result.fixed_odds -> (placed.value ->> 'runner_number') ->> 'fixed_win')::numeric(10, 2)",
            "Fixed odds to win when the result came.",
        ),
        "result_time": ("result.result_time", "When the feed gave this result, by its clock."),
    },
    """FROM races AS race
JOIN race_results AS result USING (race_id)
CROSS JOIN jsonb_array_elements(result.results) AS placed (value)""",
)
POLL_FRESHNESS = View(
    "poll_freshness",
    "How each race is followed: its newest poll, its newest answer, and whether that is late.",
    RACE_ID
    | {
        "racing_day": ("race.racing_day", "The day whose programme the race belongs to."),
        "race": ("meeting.meeting_name || ' R' || race.race_number", "Meeting and race number."),
        "start_time": ("race.start_time", "Advertised start."),
        "seconds_to_start": (SECONDS_TO_START, "Seconds from now to the advertised start; negative after it."),
        "status": ("race.status", "open, closed, interim, final or abandoned."),
        "polled_at": ("newest.polled_at", "The newest poll of all, successful or not, by our clock."),
        "poll_status": ("newest.status", "success, skipped (unknown to the API, or nothing newer) or failed."),
        "error": ("newest.error_message", "Why the newest poll gave nothing new; null after a success."),
        "lane": ("newest.lane", "live past the queue, queued through it, null for a run started by hand."),
        "due_at": ("newest.due_at", "When the newest poll was due; null for a run started by hand."),
        "late_ms": (
            "round(1000 * extract(epoch FROM newest.polled_at - newest.due_at))::integer",
            "Milliseconds from the due time to the arrival of its answer.",
        ),
        "fetch_ms": ("newest.fetch_ms", "Milliseconds of its fetch."),
        "transform_ms": ("newest.transform_ms", "Milliseconds of its calculation."),
        "write_ms": ("newest.write_ms", "Milliseconds of its write."),
        "total_ms": ("newest.total_ms", "Milliseconds of the whole poll."),
        "answered_at": ("answered.polled_at", "The newest poll that stored an answer, by our clock."),
        "seconds_since_answer": (
            "round(extract(epoch FROM now() - answered.polled_at))::integer",
            "Seconds from then to now.",
        ),
        "interval_s": (
            "cadence.interval_s",
            "Seconds between two polls at that time: 15 in the last five minutes and after the start, 30 up to fifteen "
            "minutes before it, 60 beyond.",
        ),
        "is_late": (
            "race.status NOT IN ('final', 'abandoned') AND race.start_time > now() - interval '2 hours' "
            "AND race.start_time < now() + interval '24 hours' "
            "AND coalesce(now() - answered.polled_at > 3 * cadence.interval_s * interval '1 second', true)",
            "Whether the race is followed and has had no new answer for three of these intervals.",
        ),
    },
    """FROM races AS race
JOIN meetings AS meeting USING (meeting_id)
LEFT JOIN LATERAL (
    SELECT poll.* FROM race_polls AS poll
    WHERE poll.race_id = race.race_id ORDER BY poll.polled_at DESC LIMIT 1
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT poll.polled_at FROM race_polls AS poll
    WHERE poll.race_id = race.race_id AND poll.status = 'success' ORDER BY poll.polled_at DESC LIMIT 1
) AS answered ON true
CROSS JOIN LATERAL (
    SELECT CASE WHEN race.start_time - answered.polled_at <= interval '5 minutes' THEN 15
        WHEN race.start_time - answered.polled_at <= interval '15 minutes' THEN 30 ELSE 60 END AS interval_s
) AS cadence""",
)
VIEWS = (
    RACE_CARD,
    RACE_GRID,
    MONEY_FLOW_TIMELINE,
    ODDS_TIMELINE,
    ODDS_AT_START,
    RACE_RESULT,
    POLL_FRESHNESS,
)


def upgrade() -> None:
    op.execute(TABLES)
    for view in VIEWS:
        view.create()
