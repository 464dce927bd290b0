"""What of a child's output reaches the terminal, and how often."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from raceday_dagster.service.echo import LONGEST_ECHO, MOST_ALIKE, Echo, read_notice

OWN = {"event": "race_overdue", "race_id": "r-1", "level": "warning", "time": "2026-03-01T00:00:00Z"}
MORE = "(more in logs/x.log)"
RUN = "2026-03-01 00:00:00 +0000 - dagster - ERROR - process_races - 77416e4d-8cf3-448d-a888-e49cf69362d0 - 12984"


class Terminal:
    """An echo with a clock and timers that a test moves."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.now_s = 1000.0
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.echo = Echo(self.said.append, "logs/x.log", monotonic=lambda: self.now_s, later=self._set)

    def take(self, *lines: str) -> list[str]:
        """What is said of these lines."""
        before = len(self.said)
        for line in lines:
            self.echo.take(line)
        return self.said[before:]

    def wait(self, seconds: float) -> list[str]:
        """What is said meanwhile, without another line."""
        before = len(self.said)
        until_s = self.now_s + seconds
        while due := [timer for timer in self._timers if timer[0] <= until_s]:
            self._timers.remove(due[0])
            self.now_s = max(due[0][0], self.now_s)
            due[0][1]()
        self.now_s = until_s
        return self.said[before:]

    def _set(self, delay_s: float, call: Callable[[], None]) -> None:
        self._timers.append((self.now_s + delay_s, call))
        self._timers.sort(key=lambda timer: timer[0])


def write_own(event: str, **fields: object) -> str:
    return json.dumps({"event": event, **fields, "level": "error", "time": "2026-03-01T00:00:00Z"})


def write_dagster(text: str, *, level: str = "ERROR", logger: str = "dagster.daemon.SensorDaemon") -> str:
    return f"2026-03-01 00:00:00 +0000 - {logger} - {level} - {text}"


def test_our_warning_is_one_readable_line() -> None:
    assert Terminal().take(json.dumps(OWN)) == ["WARNING race_overdue race_id=r-1"]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({**OWN, "level": "info"}),
        '{"event": "half a li{"event": "other"}',
        "Traceback (most recent call last):",
        write_dagster("Instance is configured", level="INFO"),
        write_dagster("No dagster instance configuration file", level="WARNING", logger="dagster"),
        *(write_own(event, race_id="r") for event in ("http_retry", "http_gave_up", "batch_race_failed")),
        f"{RUN} - process_race.fetch_race[r] - Race r failed in fetch: no answer (the next poll may succeed)",
        f"{RUN} - Not over two hours after the start: Ellerslie R1",
        f"{RUN} - RUN_FAILURE - Execution of run for \"process_races\" failed. Steps failed: ['summarise_batch'].",
        f'{RUN} - RUN_CANCELED - Execution of run for "process_races" canceled.',
        "",
    ],
)
def test_what_only_the_log_needs_stays_there(line: str) -> None:
    terminal = Terminal()
    assert terminal.take(line) + terminal.wait(120) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Error: cannot listen on x:1", "ERROR cannot listen on x:1"),
        (
            "Dagster has changed, so run workers start in new interpreters: a no longer says `b`",
            "WARNING Dagster has changed, so run workers start in new interpreters: a no longer says `b`",
        ),
        (
            "The fork server cannot start, so run workers start in new interpreters: too long (see TMPDIR)",
            "WARNING The fork server cannot start, so run workers start in new interpreters: too long (see TMPDIR)",
        ),
        (
            write_dagster("The fork server fails", level="WARNING", logger="dagster.code_server"),
            f"WARNING The fork server fails {MORE}",
        ),
        (
            write_dagster("live runs wait", level="WARNING", logger="dagster.run_coordinator.live_lane"),
            f"WARNING live runs wait {MORE}",
        ),
        (
            f"{RUN} - RUN_FAILURE - The run worker died",
            f"ERROR {RUN.partition(' - ERROR - ')[2]} - RUN_FAILURE - The run worker died {MORE}",
        ),
    ],
)
def test_what_the_launcher_the_web_ui_and_dagster_say_is_shown(line: str, said: str) -> None:
    terminal = Terminal()
    assert terminal.take(line) + terminal.wait(1) == [said]


TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "x.py", line 1, in <module>',
    "grpc._channel._InactiveRpcError: <_InactiveRpcError of RPC that terminated with:",
    "\tstatus = StatusCode.UNAVAILABLE",
    ">",
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    "Traceback (most recent call last):",
    "a.errors.DagsterUserCodeUnreachableError: Could not reach user code server",
)
STACK = (
    "a.OperationalError: (psycopg2.OperationalError) server closed the connection",
    "DETAIL: none",
    "[SQL: SELECT 1",
    "FROM heartbeats]",
    "(Background on this error at: https://sqlalche.me/e/20/e3q8)",
    "",
    "Stack Trace:",
    '  File "x.py", line 1, in <module>',
)


@pytest.mark.parametrize(
    ("text", "below", "said"),
    [
        ("tick failed", TRACEBACK, "tick failed: DagsterUserCodeUnreachableError: Could not reach user code server"),
        (
            "Failed to add heartbeat: ",
            STACK,
            "Failed to add heartbeat: OperationalError: (psycopg2.OperationalError) server closed the connection",
        ),
        ("It broke", (), "It broke"),
    ],
)
@pytest.mark.parametrize("next_line", [None, json.dumps({**OWN, "level": "info"}), write_dagster("x", level="INFO")])
def test_an_error_of_dagster_is_shown_with_its_cause_and_names_the_log(
    text: str, below: Sequence[str], said: str, next_line: str | None
) -> None:
    terminal = Terminal()
    assert terminal.take(write_dagster(text), *below) == []
    assert (terminal.wait(1) if next_line is None else terminal.take(next_line)) == [f"ERROR {said} {MORE}"]
    assert terminal.wait(120) == []


def test_an_error_that_one_of_our_lines_told_is_not_shown_again() -> None:
    terminal = Terminal()
    (said,) = terminal.take(write_own("daily_initialization_failed", error="the list has no meetings"))
    assert said == "ERROR daily_initialization_failed error=the list has no meetings"
    failed = f'{RUN} - fetch_meetings - STEP_FAILURE - Execution of step "fetch_meetings" failed.'
    told = "dagster._core.definitions.events.Failure: The day: the list has no meetings"
    deeper = "The above exception was caused by the following exception:", "ConnectionRefusedError: refused"
    assert terminal.take(failed, "", told, *deeper) + terminal.wait(1) == []
    batch = "dagster._core.definitions.events.Failure: 5 of 5 races failed (5 may succeed at the next poll)"
    assert terminal.take(failed, "", batch) + terminal.wait(1) == []
    (said,) = terminal.take(failed, "", "KeyError: 'races'") + terminal.wait(1)
    assert said.endswith(f"STEP_FAILURE - Execution of step \"fetch_meetings\" failed: KeyError: 'races' {MORE}")


def test_an_outage_is_a_few_lines_a_minute_and_a_count() -> None:
    terminal = Terminal()
    error = {"name": "FetchError", "message": "refused"}
    lines = [write_own("fetch_failed", race_id=f"r-{number}", error=error) for number in range(25)]
    assert len(terminal.take(*lines)) == MOST_ALIKE
    assert terminal.take(write_own("write_failed", race_id="r")) == ["ERROR write_failed race_id=r"]
    assert terminal.wait(59) == []
    assert terminal.wait(1) == ["… and 20 more fetch_failed in the last minute (logs/x.log)"]
    assert len(terminal.take(*lines)) == MOST_ALIKE
    assert terminal.wait(60) == ["… and 20 more fetch_failed in the last minute (logs/x.log)"]
    assert terminal.wait(600) == []


def test_an_equal_line_is_shown_once_a_minute() -> None:
    terminal = Terminal()
    beat = write_dagster("Failed to add heartbeat: ")
    cause = "utils.DagsterPostgresException: too many retries"
    said = f"ERROR Failed to add heartbeat: DagsterPostgresException: too many retries {MORE}"
    assert terminal.take(*[beat, cause] * 7) + terminal.wait(1) == [said]
    assert terminal.wait(60) == ["… and 6 more ERROR Failed to add heartbeat in the last minute (logs/x.log)"]
    assert terminal.take(beat, cause) + terminal.wait(1) == [said]


def test_lines_that_differ_in_their_numbers_are_alike() -> None:
    first, other = (
        read_notice(write_dagster(f"Run {run} took {number} s"))
        for run, number in (("ab12cd34-9f", 5), ("cb12cd34-9f", 17))
    )
    assert first is not None
    assert other is not None
    assert first.kind == other.kind == "ERROR Run # took # s"


def test_a_line_that_would_steer_the_terminal_is_defused() -> None:
    assert Terminal().take(json.dumps({**OWN, "name": "a\x1b[2Jb\nc"})) == [
        "WARNING race_overdue race_id=r-1 name=a [2Jb c"
    ]


def test_a_long_line_is_cut_on_the_terminal() -> None:
    (said,) = Terminal().take(json.dumps({**OWN, "text": "x" * 5_000}))
    assert len(said) == LONGEST_ECHO
