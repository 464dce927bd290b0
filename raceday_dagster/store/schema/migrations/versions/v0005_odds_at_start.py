"""``odds_at_start`` looks into the price history once for a runner instead of once for each kind of price.

Each look is planned for every partition there is: after a month four of them took longer than the answer.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

KINDS = ("fixed_win", "fixed_place", "pool_win", "pool_place")
VIEW = """
CREATE OR REPLACE VIEW odds_at_start AS
SELECT race.race_id, entrant.entrant_id, entrant.runner_number, entrant.name,
    coalesce(race.actual_start, race.start_time) AS started_at,
    {prices}
FROM races AS race JOIN entrants AS entrant USING (race_id)
CROSS JOIN LATERAL (
    SELECT {columns} FROM (
        SELECT DISTINCT ON (price.type) price.type, price.odds FROM odds_history AS price
        WHERE price.racing_day = race.racing_day AND price.race_id = race.race_id
            AND price.entrant_id = entrant.entrant_id
            AND price.event_timestamp <= coalesce(race.actual_start, race.start_time)
        ORDER BY price.type, price.event_timestamp DESC
    ) AS newest
) AS price
WHERE NOT entrant.is_scratched AND entrant.withdrawn_at IS NULL
"""


def upgrade() -> None:
    columns = (f"(max(odds) FILTER (WHERE type = '{kind}'))::numeric(10, 2) AS {kind}_odds" for kind in KINDS)
    prices = (f"price.{kind}_odds" for kind in KINDS)
    op.execute(VIEW.format(prices=", ".join(prices), columns=", ".join(columns)))
