"""What of a child's output reaches the terminal, and that no secret reaches anything."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from raceday_dagster.service.child_output import (
    LONGEST_ECHO,
    ChildOutput,
    LogFile,
    describe_line,
    find_secrets,
)

OWN = {"event": "race_overdue", "race_id": "r-1", "level": "warning", "time": "2026-03-01T00:00:00Z"}


def test_our_warning_is_one_readable_line() -> None:
    assert describe_line(json.dumps(OWN)) == "WARNING race_overdue race_id=r-1"


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({**OWN, "level": "info"}),
        '{"event": "half a li{"event": "other"}',
        "Traceback (most recent call last):",
        "2026-03-01 00:00:00 +0000 - dagster.daemon - INFO - Instance is configured",
        "",
    ],
)
def test_what_only_the_log_needs_stays_there(line: str) -> None:
    assert describe_line(line) is None


def test_an_error_of_dagster_is_shown_without_its_traceback_and_names_the_log(tmp_path: Path) -> None:
    said: list[str] = []
    with closing(LogFile(tmp_path / "logs" / "daemon.log")) as log:
        output = ChildOutput("daemon", log, said.append)
        for line in ("\x1b[31m2026 - dagster.daemon - ERROR - it broke\x1b[0m\n", "Traceback\n", "  File x\n"):
            output.take(line)
    assert said == ["daemon: ERROR it broke (more in logs/daemon.log)"]
    assert (
        tmp_path / "logs" / "daemon.log"
    ).read_text() == "2026 - dagster.daemon - ERROR - it broke\nTraceback\n  File x\n"


def test_a_line_that_would_steer_the_terminal_is_defused() -> None:
    shown = describe_line(json.dumps({**OWN, "name": "a\x1b[2Jb\nc"}))
    assert shown == "WARNING race_overdue race_id=r-1 name=a [2Jb c"


def test_a_long_line_is_cut_on_the_terminal() -> None:
    shown = describe_line(json.dumps({**OWN, "text": "x" * 5_000}))
    assert shown is not None
    assert len(shown) == LONGEST_ECHO


def test_no_secret_reaches_the_log_or_the_terminal(tmp_path: Path) -> None:
    environment = {
        "DATABASE_URL": "postgresql://u:hunt%40er2@h/d",
        "DAGSTER_PG_URL": "postgresql://u:correcthorse@h/d",
        "NZTAB_FROM_EMAIL": "me@example.nz",
    }
    said: list[str] = []
    with closing(LogFile(tmp_path / "web.log")) as log:
        output = ChildOutput("web", log, said.append, find_secrets(environment))
        output.take("2026 - x - ERROR - hunt%40er2 hunt@er2 correcthorse me@example.nz")
    assert said == ["web: ERROR " + " ".join(["[hidden]"] * 4) + f" (more in {tmp_path.name}/web.log)"]
    assert "h" not in (tmp_path / "web.log").read_text().replace("[hidden]", "").replace("2026 - x - ERROR - ", "")


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=1_000, files=3)
    for number in range(1_000):
        log.write(f"line {number}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000
    assert (tmp_path / "a.log").read_text().endswith("line 999\n")
