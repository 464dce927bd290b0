"""When a failed try is worth another, and how long to wait for it. The only place that retries a fetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch.exchange import ExchangeError

RETRY_AFTER_MAX_S = 10.0
"""A server that asks for a longer wait is given up at once."""


@dataclass(frozen=True)
class Retries:
    """How a request is repeated.

    ``delays_s``: the wait before each further try, so their number is the number of retries. ``monotonic``, ``sleep``:
    the clock.
    """

    delays_s: Sequence[float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]

    def run(
        self,
        read: Callable[[float], bytes],
        *,
        timeout_s: float,
        ends_s: float,
        race_id: str,
        log: FilteringBoundLogger,
    ) -> bytes:
        """The first body that ``read`` returns; ``read`` gets the seconds it may take, at most ``timeout_s``. The
        deadline ``ends_s`` is a reading of ``monotonic``.

        Raises:
            ExchangeError: The API refused (a fault that is not worth another try).
            FetchError: Retryable: the tries are used up, or the next one would begin after the deadline.
        """
        for attempt in range(1, len(self.delays_s) + 2):
            began = self.monotonic()
            if began >= ends_s:
                break
            try:
                body = read(min(timeout_s, ends_s - began))
            except ExchangeError as fault:
                self._log_attempt(log, attempt, began, fault)
                if not fault.retryable:
                    raise
                delay_s = self._choose_delay_s(attempt, fault, ends_s - self.monotonic())
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
        asked_s = _read_retry_after_s(fault.retry_after or "")
        delay_s = max(self.delays_s[attempt - 1], asked_s)
        return delay_s if asked_s <= RETRY_AFTER_MAX_S and delay_s < remaining_s else None

    def _log_attempt(self, log: FilteringBoundLogger, attempt: int, began: float, fault: ExchangeError | None) -> None:
        log.debug(
            "http_attempt",
            attempt=attempt,
            duration_ms=round((self.monotonic() - began) * 1000),
            outcome=fault.reason if fault else "ok",
        )


def _read_retry_after_s(header: str) -> float:
    """Seconds that a ``Retry-After`` header asks for, as seconds or as a date; 0 if it is neither or has passed."""
    try:
        return Retry().parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):  # the latter two for a date outside of the calendar
        return 0.0
