"""What becomes of a part's output: its log, what of it the operator sees, and that printing holds nobody up."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from raceday_dagster.service.console import (
    LONGEST_NOTICE,
    MOST_ALIKE,
    MOST_WAITING,
    SECRET_VARIABLES,
    URLS_WITH_PASSWORDS,
    Console,
    LogFile,
    find_secrets,
    printing_to,
)
from raceday_dagster.settings import Settings

OWN = {"event": "race_overdue", "race_id": "r-1", "level": "warning", "time": "2026-03-01T00:00:00Z"}


class Terminal:
    """A console for the output of ``web``, with a clock that a test moves."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self.said: list[str] = []
        self.now_s = 1000.0
        self.console = Console(logs, self.said.append, find_secrets(environment), monotonic=lambda: self.now_s)
        self._take = self.console.open_log("web")

    def take(self, *lines: str) -> list[str]:
        """What is said of these lines."""
        before = len(self.said)
        for line in lines:
            self._take(f"{line}\n")
        return self.said[before:]

    def wait(self, seconds: float) -> list[str]:
        """What is said after a while, without another line."""
        before = len(self.said)
        self.now_s += seconds
        self.console.close_minutes()
        return self.said[before:]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    environment = {
        "DATABASE_URL": "postgresql://u:hunt%40er2@h/d",
        "DAGSTER_PG_URL": "postgresql:///d?user=u&password=correct%40horse&host=/run&sslpassword=of+the+key",
        "NZTAB_FROM_EMAIL": "me@example.nz",
        "NZTAB_PARTNER_ID": "abc",  # too short to be told from other text
    }
    terminal = Terminal(tmp_path / "logs", environment)
    with closing(terminal.console):
        yield terminal


def test_each_part_of_a_password_is_a_secret() -> None:
    secrets = find_secrets({"DATABASE_URL": "postgres://u:Tr0ub%40d%6Fr3%23x%2Flast%3Fone@h1:1,h2/d?sslmode=require"})
    parts = {"Tr0ub", "dor3", "last"}
    whole = {"Tr0ub@dor3#x/last?one", "Tr0ub%40dor3%23x%2Flast%3Fone", "Tr0ub%40d%6Fr3%23x%2Flast%3Fone"}
    assert secrets == parts | whole


def test_every_variable_that_is_a_secret_of_the_settings_is_blacked_out() -> None:
    given = {name: f"https://h.test/{name}" for name in SECRET_VARIABLES}
    assert find_secrets(given) == set(given.values())
    kept = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert kept - set(URLS_WITH_PASSWORDS) <= set(SECRET_VARIABLES)


def write_own(event: str, **fields: object) -> str:
    return json.dumps({"event": event, **fields, "level": "error", "time": "2026-03-01T00:00:00Z"})


def write_dagster(text: str, *, level: str = "error", cause: str = "") -> str:
    exc_info = {"exc_info": ["<class 'X'>", cause, "<traceback object>"]} if cause else {}
    return json.dumps({"event": text, **exc_info, "logger": "dagster.daemon.SensorDaemon", "level": level})


def test_every_line_is_logged_as_it_is(terminal: Terminal, tmp_path: Path) -> None:
    lines = ["\x1b[31mred\x1b[0m", json.dumps(OWN), "  File x"]
    terminal.take(*lines)
    assert (tmp_path / "logs" / "web.log").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(OWN), "web: WARNING race_overdue race_id=r-1"),
        ("Error: cannot listen on x:1", "web: ERROR cannot listen on x:1"),
        (
            write_dagster("Sensor tick caught an error: ", cause="KeyError('races')"),
            "web: ERROR Sensor tick caught an error: KeyError('races')",
        ),
        (write_dagster("Failed to add heartbeat: \nSSL"), "web: ERROR Failed to add heartbeat:  SSL"),
        # What an API sent must not steer the terminal.
        (json.dumps({**OWN, "name": "a\x1b[2Jb\nc"}), "web: WARNING race_overdue race_id=r-1 name=a [2Jb c"),
    ],
)
def test_a_warning_of_ours_and_an_error_of_anybody_is_one_line(terminal: Terminal, line: str, said: str) -> None:
    assert terminal.take(line) == [said]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({**OWN, "level": "info"}),
        '{"event": "half a li{"event": "other"}',
        "Traceback (most recent call last):",
        write_dagster("deprecated", level="warning"),
        *(write_own(event, race_id="r") for event in ("http_retry", "http_gave_up", "batch_race_failed")),
        "",
    ],
)
def test_what_only_the_log_needs_stays_there(terminal: Terminal, line: str) -> None:
    assert terminal.take(line) + terminal.wait(120) == []


def test_only_the_log_takes_what_breaks_because_the_service_ends(terminal: Terminal, tmp_path: Path) -> None:
    terminal.console.mute()
    assert terminal.take("Error: gone") == []
    assert (tmp_path / "logs" / "web.log").read_text() == "Error: gone\n"


def test_an_outage_is_a_few_lines_a_minute_and_a_count(terminal: Terminal) -> None:
    lines = [write_own("fetch_failed", race_id=f"r-{number}") for number in range(25)]
    for _minute in range(2):
        assert len(terminal.take(*lines)) == MOST_ALIKE
        assert terminal.take(write_own("write_failed", race_id="r")) == ["web: ERROR write_failed race_id=r"]
        assert terminal.wait(59) == []
        assert terminal.wait(1) == ["web: … and 20 more fetch_failed in the last minute (logs/web.log)"]
    assert terminal.wait(600) == []


def test_an_equal_line_is_shown_once_a_minute(terminal: Terminal) -> None:
    beat = write_dagster("Failed to add heartbeat")
    assert terminal.take(*[beat] * 7) == ["web: ERROR Failed to add heartbeat"]
    assert terminal.wait(60) == [
        "web: … and 6 more ERROR dagster.daemon.SensorDaemon in the last minute (logs/web.log)"
    ]
    assert terminal.take(beat) == ["web: ERROR Failed to add heartbeat"]


def test_a_long_line_is_cut_on_the_terminal(terminal: Terminal) -> None:
    (said,) = terminal.take(json.dumps({**OWN, "text": "x" * 5_000}))
    assert len(said) == len("web: ") + LONGEST_NOTICE


def test_no_secret_reaches_the_log_or_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    secrets = "hunt%40er2 hunt@er2 correct%40horse correct@horse of+the+key of the key me@example.nz"
    hidden = " ".join(["[hidden]"] * 7)
    assert terminal.take(f"Error: {secrets} abc") == [f"web: ERROR {hidden} abc"]
    assert (tmp_path / "logs" / "web.log").read_text() == f"Error: {hidden} abc\n"


def test_a_log_is_bounded_and_for_its_owner_only(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "a.log", max_bytes=1_000, files=3)) as log:
        for number in range(1_000):
            log.write(f"line {number}")
    files = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert {name: stat.S_IMODE(found.st_mode) for name, found in files.items()} == dict.fromkeys(
        ["a.log", "a.log.1", "a.log.2"], 0o600
    )
    assert sum(found.st_size for found in files.values()) <= 3_000
    assert (tmp_path / "a.log").read_text().endswith("line 999\n")


def test_printed_lines_come_in_order_and_what_the_encoding_lacks_is_escaped() -> None:
    read, write = os.pipe()
    with printing_to(write, "latin-1") as say:
        say("Ōtaki R1")
        say("é")
    os.close(write)
    with open(read, "rb") as said:
        assert re.sub(rb"\d\d:\d\d:\d\d ", b"", said.read()) == b"\\u014ctaki R1\n\xe9\n"


def test_a_terminal_that_stands_still_holds_nobody_up() -> None:
    read, write = os.pipe()
    long = "x" * 1000
    with printing_to(write, "utf-8") as say:
        for _ in range(2 * MOST_WAITING):
            say(long)
    with open(read, "rb") as said:
        assert said.readline().endswith(f"{long}\n".encode())


def test_a_terminal_that_is_gone_costs_only_its_lines() -> None:
    read, write = os.pipe()
    os.close(read)
    with printing_to(write, "utf-8") as say:
        say("nobody reads this")
    os.close(write)
