"""The session to the API, and one try on it: a request, its status, its body under a cap.

A try gives the body, or an ``ExchangeError`` with its verdict. Nothing is tried again here (see ``retries``), and no
byte of the body is interpreted (see ``wire``), but for a page of HTML in its place.
"""

from __future__ import annotations

import re
import socket
import ssl
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import cast

import requests
from requests import exceptions
from requests.utils import select_proxy
from urllib3.exceptions import NameResolutionError

from raceday_dagster.fetch.cutoff import CutOff, CuttingAdapter, CuttingPool, NoThreadError
from raceday_dagster.settings import is_on_this_machine

BODY_MAX_BYTES = 5 * 1024 * 1024
"""Of the decoded body: the largest real answers are below 700 kB, and a compressed bomb has to stop somewhere."""

EXCERPT_MAX_CHARS = 200
_CHUNK_BYTES = 64 * 1024
_ERROR_BODY_BYTES = 2 * 1024
_TRANSIENT_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError, TimeoutError)


class FeedSession(requests.Session):
    """A session that sees no redirect.

    With ``allow_redirects=False`` alone, requests still reads the whole body of a redirect, without a cap, and prepares
    the request it will not send.
    """

    def get_redirect_target(self, _resp: requests.Response) -> str | None:
        return None


def build_session(base_url: str) -> FeedSession:
    """A session whose exchanges can be cut off (see ``cutoff``), safe to share between threads: it keeps no cookies.

    The environment may name a proxy or a certificate bundle, but never credentials (an authenticator of our own keeps
    netrc out), and an API on this machine is reached directly.
    """
    session = FeedSession()
    adapter = CuttingAdapter()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.auth = _keep_unauthenticated
    session.trust_env = not is_on_this_machine(base_url)
    return session


def _keep_unauthenticated(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


@dataclass(eq=False, repr=False)  # a body may quote our own headers
class ExchangeError(Exception):
    """One try failed."""

    reason: str
    """One line without secrets, fit for an error message."""
    _: KW_ONLY
    retryable: bool
    """Whether the same request may succeed in a moment."""
    status: int | None = None
    """The HTTP status, if one came."""
    retry_after: str | None = None
    """The header of that name as sent."""
    body: bytes = b""
    """The beginning of the error's body, up to 2 kB."""


def read_answer(session: requests.Session, url: str, *, params: Mapping[str, str], timeout_s: float) -> bytes:
    """The decoded body of a 200 answer, within ``timeout_s`` seconds from connecting to the last byte.

    Raises:
        ExchangeError: Anything else.
    """
    cut = CutOff(timeout_s)
    try:
        with (
            cut,
            session.get(url, params=params, timeout=timeout_s, stream=True, allow_redirects=False) as response,
        ):
            body = _read_body(response)
    except exceptions.RequestException as error:
        if cut.fired:
            raise _timed_out(timeout_s) from error
        raise _fault_of(error, timeout_s) from error
    if cut.fired:
        # A body that ends with its connection looks complete when the connection is cut.
        raise _timed_out(timeout_s)
    return body


def connect_ahead(session: requests.Session, url: str, connections: int, *, timeout_s: float) -> None:
    """Begins to open connections that the next requests to ``url`` find ready, TLS included; none through a proxy. A
    request opens what could not be opened, and says what is wrong."""
    settings = session.merge_environment_settings(url, {}, None, None, None)
    adapter = session.get_adapter(url)
    if not isinstance(adapter, CuttingAdapter) or select_proxy(url, settings["proxies"]):
        return
    request = requests.Request("GET", url).prepare()
    pool = adapter.get_connection_with_tls_context(request, settings["verify"], None, settings["cert"])
    with suppress(NoThreadError):
        cast(CuttingPool, pool).connect_ahead(connections, timeout_s)


def clean_excerpt(text: str) -> str:
    """``text`` on one line, without control characters, at most 200 characters."""
    visible = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join(visible.split())[:EXCERPT_MAX_CHARS]


def _read_body(response: requests.Response) -> bytes:
    if response.status_code != requests.codes.ok:
        raise _fault_of_status(response)
    body = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            raise ExchangeError(
                f"the answer is larger than {BODY_MAX_BYTES // 1024 // 1024} MB", retryable=False, status=200
            )
    if body.lstrip()[:1] == b"<":
        raise _fault_of_html(response, bytes(body))
    return bytes(body)


def _fault_of_html(response: requests.Response, body: bytes) -> ExchangeError:
    """A page where JSON was expected: whoever blocks robots or countries says so with status 200."""
    title = re.search(rb"<title[^>]*>([^<]*)", body[:_CHUNK_BYTES], re.IGNORECASE)
    kind = clean_excerpt(response.headers.get("Content-Type", "")) or "no content type"
    named = clean_excerpt(title[1].decode(errors="replace")) if title else ""
    return ExchangeError(
        f"the API answered with a page instead of JSON ({kind}{f', titled {named!r}' if named else ''}): "
        "blocked, or not the API",
        retryable=True,
        status=response.status_code,
    )


def _fault_of_status(response: requests.Response) -> ExchangeError:
    status = response.status_code
    if 300 <= status < 400:
        return ExchangeError(f"the API redirects (status {status}), which is refused", retryable=False, status=status)
    return ExchangeError(
        f"the API answered with status {status}",
        retryable=status == requests.codes.too_many_requests or status >= 500,
        status=status,
        retry_after=response.headers.get("Retry-After"),
        body=_read_beginning(response),
    )


def _read_beginning(response: requests.Response) -> bytes:
    try:
        return next(iter(response.iter_content(_ERROR_BODY_BYTES)), b"")
    except exceptions.RequestException:
        # The status is what matters; its explanation got lost on the way.
        return b""


def _fault_of(error: exceptions.RequestException, timeout_s: float) -> ExchangeError:
    """The verdict on a failed transport. The error's own text stays out: it may name a proxy."""
    causes = list(_causes(error))
    if isinstance(error, exceptions.Timeout) or any(isinstance(cause, TimeoutError) for cause in causes):
        return _timed_out(timeout_s)
    if any(isinstance(cause, NoThreadError) for cause in causes):
        return ExchangeError("this machine had no thread left for the request", retryable=True)
    if isinstance(error, exceptions.SSLError) and not any(isinstance(cause, _TRANSIENT_TLS) for cause in causes):
        return ExchangeError("the API's TLS certificate or protocol is not acceptable", retryable=False)
    if isinstance(error, exceptions.ContentDecodingError):
        return ExchangeError("the answer's compression is broken", retryable=False)
    if isinstance(error, exceptions.ChunkedEncodingError):
        return ExchangeError("the answer broke off", retryable=True)
    if isinstance(error, exceptions.ProxyError):
        return ExchangeError("the proxy of the environment did not connect us", retryable=True)
    if any(isinstance(cause, NameResolutionError | socket.gaierror) for cause in causes):
        return ExchangeError("the API's host name was not resolved", retryable=True)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ExchangeError("the API refused the connection", retryable=True)
    if isinstance(error, exceptions.ConnectionError):
        return ExchangeError("the connection to the API failed", retryable=True)
    return ExchangeError(f"the request cannot be made ({type(error).__name__})", retryable=False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and everything it was made from: urllib3 keeps causes in ``reason`` and arguments, too."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        one = queue.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            queue += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _timed_out(timeout_s: float) -> ExchangeError:
    return ExchangeError(f"the API did not answer in full within {timeout_s:.1f} s", retryable=True)
