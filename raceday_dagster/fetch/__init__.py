"""The NZ TAB API: one client, the wire format it reads, and when to try again.

May import the foundation. Must not know Dagster, the database or the transform.
"""

from raceday_dagster.fetch.client import RacingApi

__all__ = ["RacingApi"]
