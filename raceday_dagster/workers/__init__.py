"""The processes in which the transform runs, so that a crash or an endless calculation costs one race.

May import ``transform`` and the foundation. Must not know Dagster, HTTP or the database.
"""
