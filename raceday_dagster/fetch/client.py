"""The NZ TAB affiliates API: one method per endpoint we read. Safe to share between threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from typing import Self
from urllib.parse import quote

import requests
from structlog.typing import FilteringBoundLogger

from raceday_dagster.errors import FetchError
from raceday_dagster.fetch.event import parse_race_event
from raceday_dagster.fetch.exchange import (
    ExchangeError,
    build_session,
    clean_excerpt,
    connect_ahead,
    read_answer,
)
from raceday_dagster.fetch.meetings import MeetingsPage, build_racing_day, parse_meetings_page
from raceday_dagster.fetch.retries import Retries
from raceday_dagster.fetch.wire import WireError, read_complaint
from raceday_dagster.logs import get_logger
from raceday_dagster.racing.events import RaceEvent, RacingDay
from raceday_dagster.settings import ApiIdentity, is_on_this_machine

PAGE_SIZE = 200
"""Meetings a page; the API's maximum."""

PAGES_MAX = 20
"""Ten times what the fullest Saturday needs."""

RACE_ID_MAX_CHARS = 100
USER_AGENT = f"raceday-dagster/{metadata.version('raceday-dagster')}"

CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far ahead of ours the feed's clock may be. An answer dated in the future makes every honest one stale until that
time has come, so this is what one server's wrong clock can cost a race."""


class RacingApi:
    """The API as one host sees it: one session, one identity.

    Args:
        base_url: With the version, ``https://api.tab.co.nz/affiliates/v1``.
        identity: How we introduce ourselves; sent as configured, never logged.
        timeout_s: Seconds of one try, from connecting to the last byte of the body.
        retry_delays_s: The wait before each further try.
        session: For tests. By default ``exchange.build_session``, which see.
        monotonic, sleep, utc_now: The clocks. A simulator on this machine may have any time of day; another API that is
            more than ``CLOCK_TOLERANCE`` ahead of ``utc_now`` is not believed: its answers count as made on arrival.
            A date in ``Retry-After`` is read by the machine's clock.
    """

    def __init__(
        self,
        base_url: str,
        identity: ApiIdentity,
        *,
        timeout_s: float = 5.0,
        retry_delays_s: Sequence[float] = (0.1, 0.2, 0.4),
        session: requests.Session | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._identity = identity
        self._timeout_s = timeout_s
        self._retries = Retries(tuple(retry_delays_s), monotonic=monotonic, sleep=sleep)
        self._any_time = is_on_this_machine(self._base_url)
        self._session = session or build_session(self._base_url)
        self._session.headers.update(
            {
                "From": identity.from_email,
                "X-Partner": identity.partner_name,
                "X-Partner-ID": identity.partner_id,
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": USER_AGENT,
            }
        )
        self._monotonic = monotonic
        self._utc_now = utc_now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def connect_ahead(self, connections: int) -> None:
        """Begins to open so many connections, and returns at once: who waits for races to fall due has the time for
        it that their first requests have not. What cannot be opened is opened by them."""
        connect_ahead(self._session, self._base_url, connections, timeout_s=self._timeout_s)

    def fetch_race_event(self, race_id: str, *, deadline_s: float) -> RaceEvent | None:
        """One race as it stands now, money tracker included; ``None`` if the API does not know it (404).

        Returns or raises within ``deadline_s`` seconds, all tries and waits together.

        Raises:
            FetchError: Retryable after time-outs, failed connections, 5xx and 429; not after another status, an
                invalid answer, a redirect, an untrusted certificate or a ``race_id`` that cannot be one.
        """
        _check_race_id(race_id)
        log = get_logger(race_id=race_id)
        body = self._get(
            f"/racing/events/{quote(race_id, safe='')}",
            {"with_money_tracker": "true"},
            race_id=race_id,
            ends_s=self._monotonic() + deadline_s,
            log=log,
        )
        if body is None:
            return None
        try:
            event = parse_race_event(body, race_id=race_id, received_at=self._utc_now())
        except WireError as error:
            raise _invalid(error, race_id, log) from error
        generated_at = self._bound_clock(event.generated_at, event.received_at, log)
        return event.model_copy(update={"generated_at": generated_at})

    def fetch_racing_day(self, racing_day: date, *, deadline_s: float) -> RacingDay:
        """Every meeting and race the API lists for one racing day (the TAB's label), all countries and codes.

        What cannot be read is in ``rejected`` or ``dropped`` and costs only itself. Returns or raises within
        ``deadline_s`` seconds, all pages together.

        Raises:
            FetchError: One page could not be had or read, for part of a day is not a day; or the list has meetings,
                but no race that can be read and is of this day (retryable). Verdict as for an event; 404 is an error
                here.
        """
        ends_s = self._monotonic() + deadline_s
        log = get_logger(race_id="", racing_day=racing_day.isoformat())
        pages: list[MeetingsPage] = []
        seen: set[str] = set()
        offset = 0
        while len(pages) < PAGES_MAX:
            page = self._fetch_page(racing_day, offset, ends_s, log)
            pages.append(page)
            nothing_new = page.entries <= seen
            # Without a limit in the answer, a page may be short because the server caps it.
            if page.size < min(page.limit or 1, PAGE_SIZE) or (page.limit is None and nothing_new):
                return _require_races(build_racing_day(racing_day, pages))
            if nothing_new:
                raise FetchError(
                    f"the meetings list does not go on: the page at {offset} has nothing new",
                    race_id="",
                    retryable=False,
                )
            seen |= page.entries
            offset += page.size
        raise FetchError(f"the meetings list has more than {PAGES_MAX} pages", race_id="", retryable=False)

    def _fetch_page(self, racing_day: date, offset: int, ends_s: float, log: FilteringBoundLogger) -> MeetingsPage:
        day = racing_day.isoformat()
        body = self._get(
            "/racing/meetings",
            {"date_from": day, "date_to": day, "limit": str(PAGE_SIZE), "offset": str(offset)},
            race_id="",
            ends_s=ends_s,
            log=log,
        )
        if body is None:
            raise FetchError("the API has no meetings list (status 404)", race_id="", retryable=False)
        try:
            received_at = self._utc_now()
            page = parse_meetings_page(body, received_at=received_at)
        except WireError as error:
            raise _invalid(error, "", log) from error
        return replace(page, generated_at=self._bound_clock(page.generated_at, received_at, log))

    def _bound_clock(self, generated_at: datetime, received_at: datetime, log: FilteringBoundLogger) -> datetime:
        """When the answer was made, as far as that can be believed."""
        ahead = generated_at - received_at
        if self._any_time or ahead <= CLOCK_TOLERANCE:
            return generated_at
        log.warning("http_clock_ahead", ahead_s=round(ahead.total_seconds()))
        return received_at

    def _get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        race_id: str,
        ends_s: float,
        log: FilteringBoundLogger,
    ) -> bytes | None:
        """The body, ``None`` for 404."""

        def read(timeout_s: float) -> bytes:
            return read_answer(self._session, self._base_url + path, params=params, timeout_s=timeout_s)

        try:
            return self._retries.run(read, timeout_s=self._timeout_s, ends_s=ends_s, race_id=race_id, log=log)
        except ExchangeError as fault:
            excerpt = self._redact(clean_excerpt(fault.body.decode(errors="replace")))
            log.warning("http_client_error", status=fault.status, reason=fault.reason, excerpt=excerpt)
            if fault.status == requests.codes.not_found:
                return None
            reason = fault.reason
            if said := read_complaint(fault.body):
                reason = f"{reason}: {self._redact(said)}"
            raise FetchError(reason, race_id=race_id, retryable=False) from fault

    def _redact(self, excerpt: str) -> str:
        """An error page may quote our own headers."""
        for secret in (self._identity.from_email, self._identity.partner_id, self._identity.partner_name):
            excerpt = excerpt.replace(secret, "…")
        return excerpt


def _check_race_id(race_id: str) -> None:
    # Dots alone would be resolved as a path, whatever they are quoted as.
    if not 0 < len(race_id) <= RACE_ID_MAX_CHARS or not race_id.isprintable() or not race_id.strip("."):
        raise FetchError(
            f"a race id must be 1 to {RACE_ID_MAX_CHARS} printable characters, not dots alone",
            race_id=race_id,
            retryable=False,
        )


def _invalid(error: WireError, race_id: str, log: FilteringBoundLogger) -> FetchError:
    log.error("http_validation_error", problem=str(error))
    return FetchError(f"the API's answer is invalid: {error}", race_id=race_id, retryable=error.retryable)


def _require_races(day: RacingDay) -> RacingDay:
    """The day, unless everything it lists was rejected: that would pass for a day without racing."""
    if day.rejected and not day.races:
        first = day.rejected[0]
        raise FetchError(
            f"no race of the meetings list can be used; meeting {first.meeting_id or 'without id'}: {first.reason}",
            race_id="",
            retryable=True,
        )
    return day
