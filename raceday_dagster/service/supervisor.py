"""Starts the parts of the service in order, starts again what dies, and ends them in the opposite order.

What belongs here: when. What does not: what a part is (``parts``), how a process is started (``processes``).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from raceday_dagster.errors import ServiceError
from raceday_dagster.service.processes import Child
from raceday_dagster.service.restarts import MOST_DEATHS, WINDOW_S, choose_restart_delay_s

LOOK_EVERY_S = 0.2
READY_WITHIN_S = 90.0
_WAIT_STEP_S = 0.02


@dataclass(frozen=True)
class Stop:
    """A reason to end everything: an orderly stop, or an error."""

    error: str | None = None


Mailbox = SimpleQueue[Stop]
"""``SimpleQueue.put`` may be called from a signal handler in the midst of ``get``; locks and events may not."""


@dataclass(frozen=True)
class Part:
    """One kind of process of the service.

    Attributes:
        start: Starts it; called from the main thread.
        is_ready: Asked until it says yes once; must not block for long.
        stop_within_s: Seconds from SIGTERM to SIGKILL.
        before_restart: Called after it died and before it is started again.
        opens_the_way: Whether the parts after it need it: they start once it is ready, and end before it does.
    """

    name: str
    log_file: Path
    start: Callable[[], Child]
    is_ready: Callable[[], bool]
    stop_within_s: float
    before_restart: Callable[[], None] = lambda: None
    opens_the_way: bool = False


@dataclass
class _State:
    child: Child | None = None
    ready: bool = False
    start_at_s: float = 0.0
    deaths_s: list[float] = field(default_factory=list)


class Supervisor:
    """Keeps parts running until told to stop.

    Args:
        parts: In the order of their start.
        mailbox: Where stops arrive.
        say: Prints one line.
        on_ready: Called once, when every part is ready.
        on_change: Called with the pids after each start.
        on_stop: Called before the parts are ended.
        on_round: Called in every round, for what the parts stand on.
        monotonic: Clock, seconds.
        sleep: Used while children end.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        mailbox: Mailbox,
        say: Callable[[str], None],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_change: Callable[[dict[str, int]], None] = lambda _pids: None,
        on_stop: Callable[[], None] = lambda: None,
        on_round: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._parts = parts
        self._states = {part.name: _State() for part in parts}
        self._mailbox = mailbox
        self._say = say
        self._on_ready = on_ready
        self._on_change = on_change
        self._on_stop = on_stop
        self._on_round = on_round
        self._monotonic = monotonic
        self._sleep = sleep
        self._all_ready = False
        self._remains: list[Child] = []

    def run(self) -> None:
        """Returns after an orderly stop; whatever ends it, nothing is left running.

        Raises:
            ServiceError: A part does not start or does not stay up, or the mailbox brought an error.
        """
        began_s = self._monotonic()
        try:
            # Mail first: whoever was told to stop while the sandbox came up starts nothing.
            while (stop := self._read_mail()) is None:
                self._on_round()
                self.look_after()
                if not self._all_ready and self._monotonic() - began_s > READY_WITHIN_S:
                    raise ServiceError(f"{self._describe_unready()} within {READY_WITHIN_S:.0f} s")
            if stop.error is not None:
                raise ServiceError(stop.error)
            self._say("stopping")
        finally:
            self._on_stop()
            self.end_all()

    def look_after(self) -> None:
        """One round: bury the dead, start what is due, see who became ready."""
        # Asked every round: the number of a group that is gone may be another's soon.
        self._remains = [child for child in self._remains if not child.is_gone()]
        for part in self._parts:
            state = self._states[part.name]
            if state.child is not None and (code := state.child.poll()) is not None:
                self._bury(part, state, code)
            if state.child is None and self._monotonic() >= state.start_at_s:
                if state.deaths_s:
                    part.before_restart()
                state.child = part.start()
                self._on_change(self.read_pids())
            if state.child is not None and not state.ready:
                state.ready = part.is_ready()
            if part.opens_the_way and not state.ready and not self._all_ready:
                return
        if not self._all_ready and all(state.ready for state in self._states.values()):
            self._all_ready = True
            self._on_ready()

    def end_all(self) -> None:
        """Ends the last parts first; what the others need is ended after them. Nothing of any part is left."""
        for needed in (False, True):
            parts = [part for part in reversed(self._parts) if part.opens_the_way == needed]
            ending = [(part, child) for part in parts if (child := self._states[part.name].child) is not None]
            for _part, child in ending:
                child.end()
            began_s = self._monotonic()
            for part, child in ending:
                while not child.is_gone() and self._monotonic() - began_s < part.stop_within_s:
                    self._sleep(_WAIT_STEP_S)
                child.kill()
                self._states[part.name].child = None
        for child in self._remains:
            if not child.is_gone():
                child.kill()

    def read_pids(self) -> dict[str, int]:
        """Parts that run, and their process ids."""
        return {name: state.child.pid for name, state in self._states.items() if state.child is not None}

    def _read_mail(self) -> Stop | None:
        try:
            return self._mailbox.get(timeout=LOOK_EVERY_S)
        except Empty:
            return None

    def _bury(self, part: Part, state: _State, code: int) -> None:
        now_s = self._monotonic()
        if state.child is not None:
            self._remains.append(state.child)  # runs that a code server had started go on without it
        state.child, state.ready = None, False
        state.deaths_s = [death_s for death_s in state.deaths_s if now_s - death_s < WINDOW_S] + [now_s]
        delay_s = choose_restart_delay_s(state.deaths_s, now_s)
        if delay_s is None:
            raise ServiceError(
                f"{part.name} died {MOST_DEATHS} times within a minute, the last time with {describe_exit(code)}; "
                f"its log is {part.log_file}"
            )
        state.start_at_s = now_s + delay_s
        self._say(f"{part.name} died with {describe_exit(code)}; starting it again in {delay_s:g} s")

    def _describe_unready(self) -> str:
        part = next(part for part in self._parts if not self._states[part.name].ready)
        return f"{part.name} was not ready (its log is {part.log_file})"


def describe_exit(code: int) -> str:
    """``exit code 3``, or the name of the signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
