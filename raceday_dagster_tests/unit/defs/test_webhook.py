"""A webhook whose address cannot be one."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from raceday_dagster.defs.webhook import send_webhook


@pytest.mark.parametrize("host", ["hooks..example", "h" * 64 + ".example", "*.example"])
def test_a_host_that_cannot_be_named_so_is_a_reason_without_its_url(host: str) -> None:
    reason = send_webhook(SecretStr(f"http://{host}/hunter2"), {})
    assert reason is not None
    assert reason.startswith("it could not be reached")
