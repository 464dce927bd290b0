"""History that leaves the database: old partitions detached, exported to Parquet, checked, dropped.

May import ``store``, ``store.schema`` and the foundation. Must not know Dagster, HTTP or the transform.
"""
