"""Alembic's entry point. The connection and its transaction belong to ``migrations.upgrade``, which calls this."""

from __future__ import annotations

from alembic import context

from raceday_dagster.store.schema.check import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
