"""What the vision API said of images, the silks among them, with a small copy of each; and the other URLs of silks."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE entrants ADD COLUMN alt_silk_url_64x64 text, ADD COLUMN alt_silk_url_128x128 text")
    op.execute("""
        CREATE TABLE image_descriptions (
            source text CONSTRAINT pk_image_descriptions PRIMARY KEY,
            content_hash text, title text, model text, error text,
            status text NOT NULL,
            keywords text[],
            category integer, bytes_before integer, bytes_after integer,
            preview bytea,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT ck_image_descriptions_status CHECK (status IN ('success', 'skipped', 'failed'))
        )
    """)
    op.execute("CREATE INDEX ix_image_descriptions_content ON image_descriptions (content_hash)")
