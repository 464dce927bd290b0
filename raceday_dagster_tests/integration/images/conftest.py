"""The fixtures of a batch of images over HTTP."""

from raceday_dagster_tests.integration.images.vision_fixture import pictures, settings, simulator, started

__all__ = ["pictures", "settings", "simulator", "started"]
