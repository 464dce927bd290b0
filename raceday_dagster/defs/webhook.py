"""One POST of JSON to somebody who wants to know. It may fail and says why; it never raises and never lasts."""

from collections.abc import Mapping
from typing import Any

import requests
from pydantic import SecretStr

from raceday_dagster.fetch.cutoff import CutOff, CuttingAdapter

TIMEOUT_S = 2.0
"""Of one try, whatever the other side does."""
TRIES = 2


def send_webhook(url: SecretStr, body: Mapping[str, Any]) -> str | None:
    """Sends ``body``, a second time if the first failed. ``None`` when it was taken, else why not, without the URL,
    which lets in whoever knows it."""
    reason = None
    with requests.Session() as session:
        session.mount("http://", CuttingAdapter())
        session.mount("https://", CuttingAdapter())
        for _ in range(TRIES):
            reason = _try(session, url, body)
            if reason is None:
                return None
    return reason


def _try(session: requests.Session, url: SecretStr, body: Mapping[str, Any]) -> str | None:
    late = f"no answer within {TIMEOUT_S:g} s"
    reason = None
    with CutOff(TIMEOUT_S) as cut:
        try:
            # What it answers beside the status is not read.
            with session.post(
                url.get_secret_value(), json=body, timeout=TIMEOUT_S, allow_redirects=False, stream=True
            ) as answer:
                if not 200 <= answer.status_code < 300:
                    reason = f"it answered {answer.status_code}"
        except requests.Timeout:
            reason = late
        except requests.RequestException as error:
            reason = f"it could not be reached ({type(error).__name__})"
    # What was cut off can look like an answer: headers that end where the cut fell.
    return late if cut.fired else reason
