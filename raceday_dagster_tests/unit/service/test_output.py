"""A child's output goes to a bounded log of its owner, and no secret reaches anything."""

from __future__ import annotations

import json
import stat
from contextlib import closing
from pathlib import Path

from raceday_dagster.service.child_output import ChildOutput, LogFile, find_secrets


def test_every_line_is_logged_without_its_colours_and_a_warning_of_ours_is_shown(tmp_path: Path) -> None:
    said: list[str] = []
    own = json.dumps({"event": "race_overdue", "race_id": "r-1", "level": "warning", "time": "2026-03-01T00:00:00Z"})
    with closing(LogFile(tmp_path / "logs" / "daemon.log")) as log:
        output = ChildOutput("daemon", log, said.append)
        for line in ("\x1b[31mred\x1b[0m\n", f"{own}\n", "  File x\r\n"):
            output.take(line)
    assert said == ["daemon: WARNING race_overdue race_id=r-1"]
    assert (tmp_path / "logs" / "daemon.log").read_text() == f"red\n{own}\n  File x\n"


def test_no_secret_reaches_the_log_or_the_terminal(tmp_path: Path) -> None:
    environment = {
        "DATABASE_URL": "postgresql://u:hunt%40er2@h/d",
        "DAGSTER_PG_URL": "postgresql://u:correcthorse@h/d",
        "NZTAB_FROM_EMAIL": "me@example.nz",
    }
    said: list[str] = []
    with closing(LogFile(tmp_path / "web.log")) as log:
        output = ChildOutput("web", log, said.append, find_secrets(environment))
        output.take("Error: hunt%40er2 hunt@er2 correcthorse me@example.nz")
    assert said == ["web: ERROR [hidden] [hidden] [hidden] [hidden]"]
    assert (tmp_path / "web.log").read_text() == "Error: [hidden] [hidden] [hidden] [hidden]\n"


def test_a_password_in_the_query_of_a_url_is_a_secret_too() -> None:
    url = "postgresql:///d?user=u&password=hunt%40er2&host=/run&sslpassword=of+the+key"
    assert find_secrets({"DAGSTER_PG_URL": url}) == {"hunt%40er2", "hunt@er2", "of+the+key", "of the key"}


def test_a_log_is_for_its_owner_only_also_after_it_was_begun_anew(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "a.log", max_bytes=10, files=2)) as log:
        log.write("first line")
        log.write("second line")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "a.log": 0o600,
        "a.log.1": 0o600,
    }


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=1_000, files=3)
    for number in range(1_000):
        log.write(f"line {number}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000
    assert (tmp_path / "a.log").read_text().endswith("line 999\n")
