"""How the thread of the streams waits for a notification."""

from __future__ import annotations

import fcntl
import os
from types import SimpleNamespace
from typing import Any, cast

from raceday_dagster.market.events import _wait

BEYOND_SELECT = 1_024


def test_a_connection_with_a_high_descriptor_is_waited_for() -> None:
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD, BEYOND_SELECT)
    asked: list[str] = []
    driver = SimpleNamespace(fileno=lambda: high, notifies=["heard"])
    connection = cast(
        "Any", SimpleNamespace(connection=SimpleNamespace(driver_connection=driver), exec_driver_sql=asked.append)
    )
    try:
        os.write(writer, b"x")
        assert _wait(connection, 10) == ["heard"]
        assert asked, "the driver is asked for what came"
        assert driver.notifies == []
    finally:
        for descriptor in (reader, writer, high):
            os.close(descriptor)
