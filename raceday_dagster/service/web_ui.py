"""The web UI of ``raceday up``: ``web.server``, whose ``/races/api/health`` tells what ``raceday health`` says.

Takes the same options; only its start is here, because ``web`` knows nothing of the service that starts it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from raceday_dagster.service.health import check_health, describe_health
from raceday_dagster.web.server import main


def read_health() -> dict[str, Any]:
    """The report of ``raceday health --json``, in the environment of this part."""
    return describe_health(check_health(os.environ, datetime.now(UTC)))


if __name__ == "__main__":
    main(obj=read_health)
