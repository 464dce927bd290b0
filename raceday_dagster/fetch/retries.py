"""When a failed try is worth another, and how long to wait for it. The only place that retries a fetch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from structlog.typing import FilteringBoundLogger

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch.cutoff import Deadline
from raceday_dagster.fetch.exchange import ExchangeError


def read_utc_clock() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Retries:
    """How a request is repeated.

    ``delays_s``: the wait before each further try, so their number is the number of retries. ``retry_after_max_s``: a
    server that asks for more than this is given up at once. ``monotonic``, ``sleep``, ``utc_now``: the clocks.
    """

    delays_s: Sequence[float] = (0.1, 0.2, 0.4)
    retry_after_max_s: float = 10.0
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    utc_now: Callable[[], datetime] = read_utc_clock

    def run(
        self,
        read: Callable[[float], bytes],
        *,
        timeout_s: float,
        deadline: Deadline,
        race_id: str,
        log: FilteringBoundLogger,
    ) -> bytes:
        """The first body that ``read`` returns; ``read`` gets the seconds it may take, at most ``timeout_s``.

        Raises:
            ExchangeError: The API refused (a fault that is not worth another try).
            FetchError: Retryable: the tries are used up, or the next one would begin after the deadline.
        """
        for attempt in range(1, len(self.delays_s) + 2):
            remaining_s = deadline.remaining_s()
            if remaining_s <= 0:
                break
            began = self.monotonic()
            try:
                body = read(min(timeout_s, remaining_s))
            except ExchangeError as fault:
                self._log_attempt(log, attempt, began, fault)
                if not fault.retryable:
                    raise
                delay_s = self._choose_delay_s(attempt, fault, deadline.remaining_s())
                if delay_s is None:
                    log.warning("http_gave_up", attempt=attempt, reason=fault.reason, status=fault.status)
                    raise FetchError(
                        f"{fault.reason}; gave up after {attempt} {'try' if attempt == 1 else 'tries'}",
                        race_id=race_id,
                        retryable=True,
                    ) from fault
                log.warning("http_retry", attempt=attempt, delay_ms=round(delay_s * 1000), reason=fault.reason)
                self.sleep(delay_s)
            else:
                self._log_attempt(log, attempt, began, None)
                return body
        log.warning("http_gave_up", attempt=attempt - 1, reason="no time left", status=None)
        raise FetchError("no time left for another try", race_id=race_id, retryable=True)

    def _choose_delay_s(self, attempt: int, fault: ExchangeError, remaining_s: float) -> float | None:
        """Seconds to wait after the failed try number ``attempt``; ``None``: do not try again."""
        if attempt > len(self.delays_s):
            return None
        delay_s = self.delays_s[attempt - 1]
        if fault.retry_after is not None:
            asked_s = parse_retry_after_s(fault.retry_after, self.utc_now())
            if asked_s is not None and asked_s > self.retry_after_max_s:
                return None
            delay_s = max(delay_s, asked_s or 0)
        return delay_s if delay_s < remaining_s else None

    def _log_attempt(self, log: FilteringBoundLogger, attempt: int, began: float, fault: ExchangeError | None) -> None:
        log.debug(
            "http_attempt",
            attempt=attempt,
            duration_ms=round((self.monotonic() - began) * 1000),
            outcome=fault.reason if fault else "ok",
        )


def parse_retry_after_s(header: str, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as seconds or as an HTTP date; ``None`` if it is neither.

    A date that has passed asks for 0.
    """
    text = header.strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text) if len(text) <= 9 else float("inf")
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    # An HTTP date is GMT; the parser leaves the zone out when the header says "-0000" or nothing.
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max((at - now).total_seconds(), 0)
