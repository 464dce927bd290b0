"""The one event loop of a run, for steps that are threads."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

LOOP_END_S = 1.0
"""An event loop that still runs by then is blocked."""


class RunEventLoop:
    """The event loop of the run as the steps see it: a thread runs it, from the first async step until it is closed.

    An awaitable keeps the context of the step that brings it, Dagster's and that of the log handlers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waited_for: set[concurrent.futures.Future[Any]] = set()
        self._is_blocked = False

    def run_until_complete(self, awaitable: Coroutine[Any, Any, Any]) -> Any:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="event loop of the run", daemon=True)
                self._thread.start()
        future = asyncio.run_coroutine_threadsafe(awaitable, self._loop)
        self._waited_for.add(future)
        try:
            return future.result()
        finally:
            self._waited_for.discard(future)

    def close(self) -> None:
        """Cancel what steps that are left behind wait for, and leave the loop to the resources, which may end on it."""
        if self._thread is None:
            return
        for future in tuple(self._waited_for):
            future.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LOOP_END_S)
        if self._thread.is_alive():  # a step that is left behind blocks it: Dagster must not fail to close it
            self._is_blocked = True
            self._loop.close = lambda: None  # type: ignore[method-assign]

    def _run(self) -> None:
        is_stopped = False
        while not is_stopped:
            # asyncio gives them to who waits, the step, and stops as well.
            with suppress(KeyboardInterrupt, SystemExit):
                self._loop.run_forever()
                is_stopped = True
        if self._is_blocked:
            type(self._loop).close(self._loop)
