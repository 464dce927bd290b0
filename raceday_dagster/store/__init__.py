"""The database: one transaction and one connection for each race, and the questions that the schedule asks.

May import the foundation. Must not know Dagster, HTTP or the transform. ``race_store.RaceStore`` is what others call.
"""
