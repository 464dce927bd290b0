"""One call of a vision API that speaks the protocol of OpenAI, through the official client. Needs ``openai``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import threading
from typing import Any

import httpx2
import openai
from pydantic import BaseModel, SecretStr, ValidationError

from raceday_dagster.errors import ImageError
from raceday_dagster.settings import is_on_this_machine

MAX_TOKENS = 1_000
TEMPERATURE = 0.3
MAX_ANSWER_BYTES = 1_000_000
CONNECT_TIMEOUT_S = 5.0
_RETRYABLE = {408, 425, 429}


class VisionApi:
    """The API; safe to share between threads.

    Calls run on an event loop of its own: a call whose time is over, or that ``close`` finds under way, is cancelled,
    and its connection shut, before ``ask`` returns. The client's own retries are off: whoever calls decides.
    """

    def __init__(self, url: str, key: SecretStr | None, model: str) -> None:
        self.model = model
        """The model that is asked."""
        self._key = key.get_secret_value() if key else ""
        self._url = url
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def ask(self, image_url: str, prompt: str, timeout_s: float) -> str:
        """The answer's text to the prompt about the image.

        Raises:
            ImageError: Stage "describe"; retryable for faults of the network, 429 and 5xx.
        """
        with self._lock:
            if self._closed:
                raise _refuse("interrupted", retryable=True)
            call = asyncio.run_coroutine_threadsafe(self._ask(image_url, prompt, timeout_s), self._start())
        try:
            return call.result()
        except concurrent.futures.CancelledError as error:
            raise _refuse("interrupted", retryable=True) from error

    def close(self) -> None:
        """Cuts the calls under way, and their connections; a second time does nothing."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._client = self._build_client()
            self._thread = threading.Thread(target=self._loop.run_forever, name="vision", daemon=True)
            self._thread.start()
        return self._loop

    def _build_client(self) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",  # the client insists on one; an API on this machine may want none
            max_retries=0,
            # The environment may name a proxy, which an API on this machine is reached without.
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=not is_on_this_machine(self._url), follow_redirects=False
            ),
        )
        # The client takes these from variables that are none of ours.
        client.organization = client.project = None
        return client

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _ask(self, image_url: str, prompt: str, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                return _read_answer(await self._exchange(image_url, prompt))
        except TimeoutError:
            raise _refuse("the vision API did not answer in time", retryable=True) from None
        except openai.APIStatusError as error:
            refusal = self._read_refusal(error)
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            reason = self._hide_key(str(error.__cause__ or error) or type(error).__name__)
            refusal = _refuse(f"the vision API cannot be reached: {reason}", retryable=True)
        except openai.OpenAIError as error:
            refusal = _refuse(self._hide_key(f"the vision API cannot be asked: {error}"))
        # Not from the client's error, which quotes the server's answer, which may quote the key.
        raise refusal

    async def _exchange(self, image_url: str, prompt: str) -> bytes:
        """The body of the answer, as long as an answer may be."""
        image: Any = {"type": "image_url", "image_url": {"url": image_url, "detail": "low"}}
        async with self._client.chat.completions.with_streaming_response.create(
            model=self.model,
            messages=[{"role": "user", "content": [{"type": "text", "text": prompt}, image]}],
            max_completion_tokens=MAX_TOKENS,
            temperature=TEMPERATURE,
            timeout=openai.Timeout(None, connect=CONNECT_TIMEOUT_S),
        ) as response:
            body = bytearray()
            async for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _refuse(f"the answer is larger than {MAX_ANSWER_BYTES / 1_000_000:g} MB")
            return bytes(body)

    def _read_refusal(self, error: openai.APIStatusError) -> ImageError:
        status = error.status_code
        if status in {401, 403}:
            return _refuse(f"the vision API refused the key ({status}): check VISION_API_KEY")
        wait = error.response.headers.get("retry-after", "").strip()
        return _refuse(
            self._hide_key(f"the vision API answered {status}: {error.message}"),
            retryable=status in _RETRYABLE or status >= 500,
            retry_after_s=float(wait) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", wait) else None,
        )

    def _hide_key(self, text: str) -> str:
        shown = text.replace(self._key, "…") if self._key else text
        return re.sub(r"\bsk-\S+", "…", " ".join(shown.split()))[:200]


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """As much of a chat completion as is read: servers differ in the rest."""

    choices: list[_Choice]


def _read_answer(body: bytes) -> str:
    try:
        choice = _Completion.model_validate_json(body).choices[0]
    except (ValidationError, IndexError) as error:
        raise _refuse("the vision API's answer is no chat completion") from error
    if choice.message.refusal:
        raise _refuse(f"the vision API refused: {' '.join(choice.message.refusal.split())[:150]}")
    if choice.finish_reason == "content_filter":
        raise _refuse("the vision API refused: its content filter")
    return choice.message.content or ""


def _refuse(message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> ImageError:
    return ImageError(message, stage="describe", retryable=retryable, retry_after_s=retry_after_s)
