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
from raceday_dagster.service.processes import ChildProcess

LOOK_EVERY_S = 0.2
READY_WITHIN_S = 90.0
ASK_EVERY_S = 2.0
SILENT_S = 8.0
"""A part that shows no sign of its work for so long hangs: counted from the first question without an answer, which
comes ``ASK_EVERY_S`` after the last one with one. A race that is polled every 15 s waits at most 35 s: for its slot,
for both of these, and as long again for the next part, its first tick and the run."""
WINDOW_S = 60.0
MOST_DEATHS = 5
FIRST_DELAY_S = 0.5
"""Before a part that died is started again; doubled with each death of the last minute."""
_WAIT_STEP_S = 0.02

StopRequests = SimpleQueue[int]
"""Numbers of signals. ``SimpleQueue.put`` may be called from a signal handler in the midst of ``get``; locks and
events may not."""


@dataclass(frozen=True)
class Part:
    """One kind of process of the service.

    Attributes:
        arguments: Of ``python -m``.
        works: Whether it does its work, ``None`` if that cannot be known at the moment; must not block for more than a
            second. Asked again and again.
        stop_within_s: Seconds from SIGTERM to SIGKILL.
        before_restart: Called after it died and before it is started again.
        is_needed: Whether the other parts need it: they start once it is ready, and end before it does.
    """

    name: str
    arguments: tuple[str, ...]
    works: Callable[[], bool | None]
    stop_within_s: float
    before_restart: Callable[[], None] = lambda: None
    is_needed: bool = False


@dataclass
class _State:
    child: ChildProcess | None = None
    ready: bool = False
    start_at_s: float = 0.0
    asked_s: float = 0.0
    silent_since_s: float | None = None
    """The first question without an answer since it last showed that it works, or since it was started."""
    deaths_s: list[float] = field(default_factory=list)


class Supervisor:
    """Keeps parts running until told to stop.

    Args:
        parts: In the order of their start, those that the others need first.
        start: Starts a part; called from the main thread.
        logs: The folder of their logs.
        stop_requests: Where the wish to stop arrives.
        say: Prints one line.
        on_ready: Called once, when every part is ready.
        on_change: Called with the pids after each start.
        on_stop: Called before the parts are ended.
        on_round: Called in every round, for what the parts stand on; its ``ServiceError`` ends the service.
        monotonic: Clock, seconds.
        sleep: Used while children end.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        start: Callable[[Part], ChildProcess],
        logs: Path,
        stop_requests: StopRequests,
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
        self._start = start
        self._logs = logs
        self._states = {part.name: _State() for part in parts}
        self._stop_requests = stop_requests
        self._say = say
        self._on_ready = on_ready
        self._on_change = on_change
        self._on_stop = on_stop
        self._on_round = on_round
        self._monotonic = monotonic
        self._sleep = sleep
        self._all_ready = False

    def run(self) -> None:
        """Returns after an orderly stop; whatever ends it, nothing is left running.

        Raises:
            ServiceError: A part does not start or does not stay up, or what it stands on is lost.
        """
        began_s = self._monotonic()
        try:
            # Whoever was told to stop while the sandbox came up starts nothing.
            while not self._is_told_to_stop():
                self._on_round()
                self.look_after()
                if not self._all_ready and self._monotonic() - began_s > READY_WITHIN_S:
                    raise ServiceError(f"{self._describe_unready()} within {READY_WITHIN_S:.0f} s")
            self._say("stopping")
        finally:
            self._on_stop()
            self.end_all()

    def look_after(self) -> None:
        """One round: note the deaths, start what is due, see who became ready, and whether one of them hangs."""
        for part in self._parts:
            if not self._stop_requests.empty():
                return  # what starts a part again takes seconds where a database does not answer
            if not part.is_needed and not self._all_ready and not self._are_needed_ready():
                return
            state = self._states[part.name]
            if state.child is not None and (code := state.child.poll()) is not None:
                self._note_death(part, state, code)
            if state.child is None and self._monotonic() >= state.start_at_s:
                if state.deaths_s:
                    part.before_restart()
                state.child = self._start(part)
                state.silent_since_s, state.asked_s = None, self._monotonic()
                self._on_change(self.read_pids())
            if state.child is not None and not state.ready:
                self._ask(part, state)
        if not self._all_ready and all(state.ready for state in self._states.values()):
            self._all_ready = True
            self._on_ready()
        if self._all_ready:
            self._ask_one()

    def end_all(self) -> None:
        """Ends the last parts first; what the others need is ended after them. Nothing of any part is left."""
        for needed in (False, True):
            ending = [
                (part, child)
                for part in reversed(self._parts)
                if part.is_needed == needed and (child := self._states[part.name].child) is not None
            ]
            for _part, child in ending:
                child.end()
            began_s = self._monotonic()
            for part, child in ending:
                while not child.has_ended() and self._monotonic() - began_s < part.stop_within_s:
                    self._sleep(_WAIT_STEP_S)
                child.kill()
                self._states[part.name].child = None

    def replace(self, name: str, reason: str) -> None:
        """Kills a part, which the next round starts again."""
        if (child := self._states[name].child) is not None:
            self._say(reason)
            child.kill()

    def read_pids(self) -> dict[str, int]:
        """Parts that run, and their process ids."""
        return {name: state.child.pid for name, state in self._states.items() if state.child is not None}

    def _is_told_to_stop(self) -> bool:
        try:
            self._stop_requests.get(timeout=LOOK_EVERY_S)
        except Empty:
            return False
        return True

    def _are_needed_ready(self) -> bool:
        return all(self._states[part.name].ready for part in self._parts if part.is_needed)

    def _ask_one(self) -> None:
        """One a round: those that hang hold up the others, and the end, for a second only."""
        running = [part for part in self._parts if self._states[part.name].ready]
        for part in sorted(running, key=lambda part: self._states[part.name].asked_s)[:1]:
            if self._monotonic() - self._states[part.name].asked_s >= ASK_EVERY_S:
                self._ask(part, self._states[part.name])

    def _ask(self, part: Part, state: _State) -> None:
        state.asked_s = self._monotonic()
        works = part.works()
        state.ready = state.ready or works is True
        if works is not False:
            state.silent_since_s = None
            return
        # From the first question, not from the last answer: in between, this process may have stood still itself.
        state.silent_since_s = state.silent_since_s or state.asked_s
        silent_s = self._monotonic() - state.silent_since_s
        if self._all_ready and silent_s >= (SILENT_S if state.ready else READY_WITHIN_S):
            self.replace(part.name, f"{part.name} has not answered for {silent_s:.0f} s: it is killed")

    def _note_death(self, part: Part, state: _State, code: int) -> None:
        now_s = self._monotonic()
        state.child, state.ready = None, False
        state.deaths_s = [death_s for death_s in state.deaths_s if now_s - death_s < WINDOW_S] + [now_s]
        deaths = len(state.deaths_s)
        if deaths >= MOST_DEATHS:  # it does not come up by itself
            raise ServiceError(
                f"{part.name} died {MOST_DEATHS} times within a minute, the last time with {describe_exit(code)}; "
                f"its log is {self._logs}/{part.name}.log"
            )
        delay_s = FIRST_DELAY_S * 2 ** (deaths - 1)
        state.start_at_s = now_s + delay_s
        self._say(f"{part.name} died with {describe_exit(code)}; starting it again in {delay_s:g} s")

    def _describe_unready(self) -> str:
        part = next(part for part in self._parts if not self._states[part.name].ready)
        return f"{part.name} was not ready (its log is {self._logs}/{part.name}.log)"


def describe_exit(code: int) -> str:
    """``exit code 3``, or the name of the signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
