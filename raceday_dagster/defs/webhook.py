"""One POST of JSON to somebody who wants to know. It may fail and says why; it never raises and never lasts."""

from collections.abc import Mapping
from typing import Any

import requests
from pydantic import SecretStr

from raceday_dagster.fetch.cutoff import CutOff, CuttingAdapter

TIMEOUT_S = 2.0
"""Of one try, whatever the other side does."""
TRIES = 2


def send_webhook(url: SecretStr, body: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Sends ``body``, a second time if the first failed. ``None`` when it was taken, else why not, without the URL,
    which lets in whoever knows it."""
    reason = None
    with requests.Session() as session:
        session.mount("http://", CuttingAdapter())
        session.mount("https://", CuttingAdapter())
        for _ in range(TRIES):
            reason = _try(session, url, body, timeout_s)
            if reason is None:
                return None
    return reason


def _try(session: requests.Session, url: SecretStr, body: Mapping[str, Any], timeout_s: float) -> str | None:
    with CutOff(timeout_s) as cut:
        try:
            # What it answers beside the status is not read.
            with session.post(
                url.get_secret_value(), json=body, timeout=timeout_s, allow_redirects=False, stream=True
            ) as answer:
                return None if answer.ok and not answer.is_redirect else f"it answered {answer.status_code}"
        except requests.RequestException as error:
            return (
                f"no answer within {timeout_s:g} s"
                if cut.fired
                else f"it could not be reached ({type(error).__name__})"
            )
