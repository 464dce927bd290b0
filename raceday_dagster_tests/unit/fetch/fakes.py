"""The API without a network: a scripted transport under a real session, and a clock that moves only when told."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from raceday_dagster.fetch import RacingApi
from raceday_dagster.fetch.exchange import build_session
from raceday_dagster.settings import ApiIdentity
from raceday_dagster_tests.payloads import encode

BASE_URL = "http://feed.invalid/affiliates/v1"
IDENTITY = ApiIdentity(from_email="someone@example.org", partner_name="Quiet Partner", partner_id="Private Developer")


@dataclass
class FakeClock:
    """Monotonic seconds and UTC together; ``sleep`` moves both and remembers."""

    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now_s += seconds

    def utc_now(self) -> datetime:
        return datetime(2025, 7, 17, tzinfo=UTC) + timedelta(seconds=self.now_s - 1000)


@dataclass(frozen=True)
class Answer:
    """One scripted answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, payload: Any) -> Answer:
        return cls(body=gzip.compress(encode(payload)), headers={"Content-Encoding": "gzip"})


class ScriptedAdapter(BaseAdapter):
    """Gives the scripted answers in turn and keeps what it was asked; an exception is raised, with the time it took."""

    def __init__(self, script: Sequence[Answer | Exception], clock: FakeClock, takes_s: float = 0.0) -> None:
        super().__init__()
        self.script = list(script)
        self.asked: list[requests.PreparedRequest] = []
        self.timeouts: list[float] = []
        self._clock = clock
        self._takes_s = takes_s

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        self.asked.append(request)
        self.timeouts.append(round(kwargs["timeout"], 6))
        self._clock.now_s += self._takes_s
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response.raw = HTTPResponse(
            body=io.BytesIO(answer.body), headers=answer.headers, status=answer.status, preload_content=False
        )
        response.url = request.url
        return response

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Feed:
    """A client, its scripted transport and its clock."""

    api: RacingApi
    transport: ScriptedAdapter
    clock: FakeClock

    @classmethod
    def of(cls, *script: Answer | Exception, takes_s: float = 0.0, base_url: str = BASE_URL) -> Feed:
        clock = FakeClock()
        transport = ScriptedAdapter(script, clock, takes_s)
        session = build_session("http://127.0.0.1")  # reads no proxy from the environment
        session.mount("http://", transport)
        api = RacingApi(
            base_url,
            IDENTITY,
            session=session,
            monotonic=clock.monotonic,
            sleep=clock.sleep,
            utc_now=clock.utc_now,
        )
        return cls(api, transport, clock)
