"""When an entrant was withdrawn; and the ledger's old rows found without reading all of it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE entrants ADD COLUMN withdrawn_at timestamptz")
    op.execute("CREATE INDEX ix_race_polls_polled_at ON race_polls USING brin (polled_at)")
