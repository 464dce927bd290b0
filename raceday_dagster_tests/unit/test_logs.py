"""A log line never fails whoever writes it."""

from __future__ import annotations

import json
import os
import sys

import pytest

from raceday_dagster.logs import get_logger


def test_a_line_is_one_json_object_with_its_event_first(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger(race_id="r-1").warning("write_stale", rows=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('{"event": "write_stale"')
    assert json.loads(line)["race_id"] == "r-1"


def test_a_line_that_nobody_reads_is_lost_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    unread = os.fdopen(write, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", unread)
    get_logger().warning("written")
    with pytest.raises(BrokenPipeError):
        unread.close()
