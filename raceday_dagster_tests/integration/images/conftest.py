"""The fixtures of a batch of images over HTTP."""

from raceday_dagster_tests.integration.images.vision_fixture import (
    pictures,
    settings,
    simulator,
    started,
    temporary_folder,
)

__all__ = ["pictures", "settings", "simulator", "started", "temporary_folder"]
