"""The write stage: one race snapshot, one transaction, one connection. Knows PostgreSQL and nothing of HTTP or Dagster.

``store.RaceStore`` is the door; ``engine`` makes the one pool; ``tables`` is the only description of the schema and
``migrations`` brings a database to it.
"""
