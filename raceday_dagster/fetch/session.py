"""The one session to the API: what it takes from the environment, and what it refuses from the other side."""

from __future__ import annotations

import ipaddress
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests

from raceday_dagster.fetch.cutoff import CuttingAdapter


class FeedSession(requests.Session):
    """A session that sees no redirect.

    With ``allow_redirects=False`` alone, requests still reads the whole body of a redirect, without a cap, and prepares
    the request it will not send.
    """

    def get_redirect_target(self, _resp: requests.Response) -> str | None:
        return None


def build_session(base_url: str, pool_size: int) -> FeedSession:
    """A session whose exchanges can be cut off (see ``deadline``), safe to share between threads: it keeps no cookies.

    The environment may name a proxy or a certificate bundle, but never credentials (an authenticator of our own keeps
    netrc out), and an API on this machine is reached directly.
    """
    session = FeedSession()
    adapter = CuttingAdapter(pool_connections=pool_size, pool_maxsize=pool_size)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.auth = _keep_unauthenticated
    session.trust_env = not is_on_this_machine(base_url)
    return session


def _keep_unauthenticated(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def is_on_this_machine(base_url: str) -> bool:
    """Whether the API is reached over the loopback interface: a simulator."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
