"""The NZ TAB API: one client, the wire format it reads, and when to try again. Knows nothing of Dagster or tables."""

from raceday_dagster.fetch.client import RacingApi

__all__ = ["RacingApi"]
