"""Tables and columns that are treated alike. ``migrations/versions`` says what each table is.

Text ids; instants are ``timestamptz``; racing days are plain dates (labels, not instants); money is integer cents; odds
are ``numeric(10,2)``; shares are percent, ``numeric(6,2)``. ``NULL`` means "not known". The history tables are
partitioned by racing day (see ``partitions``) and have no foreign key: creating a partition would otherwise wait for
every race write in flight. ``market_signals.change`` is in percentage points of money or share, or percent of the
price, positive when it shortens; an image of ``image_descriptions`` that was ``skipped`` has the description of another
source with the same content.
"""

from __future__ import annotations

PARTITIONED_TABLES = ("money_flow_history", "odds_history", "pool_history")

POOL_TOTALS = (
    *(f"{product}_pool_total" for product in ("win", "place", "quinella", "trifecta", "exacta", "first4")),
    "total_race_pool",
    "multi_leg_pool_total",
)
"""Of ``race_pools``; ``pool_history`` has them after each poll that changed one."""

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
