"""A log line never fails whoever writes it."""

from __future__ import annotations

import json
import os
import re
import sys
from io import StringIO

import pytest

from raceday_dagster.logs import get_logger


def test_a_line_is_one_json_object_with_its_event_first(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger(race_id="r-1").warning("write_stale", rows=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('{"event": "write_stale"')
    assert json.loads(line)["race_id"] == "r-1"


def say_batch() -> None:
    log = get_logger(run_id="run-1", race_id="r-1")
    timings = {"fetch_ms": 300, "transform_ms": 4, "write_ms": 12, "total_ms": 330}
    log.info("fetch_start")
    log.info("batch_race_complete", race="Te Rimu R5", status="success", timings=timings)
    log.error("fetch_failed", race="", retryable=True, error={"name": "E", "message": "no \x1b[31manswer"}, fetch_ms=9)
    log.error("batch_race_failed", race="", stage="fetch", retryable=True, timings=timings)
    log.warning("http_clock_ahead", ahead_s=9)
    counts = {"total_races": 2, "successes": 1, "skipped": 0, "failures": 1, "batch_duration_ms": 640}
    get_logger(run_id="run-1").info("batch_complete", **counts, slowest_race="Te Rimu R5 (r-1)", workers={})
    counts["total_images"] = counts.pop("total_races")
    get_logger(run_id="run-2").info("batch_complete", **counts, slowest_image="")
    get_logger().info("partition_creation_complete", made=3)


class Terminal(StringIO):
    """A standard error that a person reads."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_race_is_a_line_and_a_batch_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    say_batch()
    lines = terminal.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "Te Rimu R5: success in 330 ms (fetch 300, transform 4, write 12)",
        "ERROR r-1: fetch_failed: no  [31manswer retryable=True fetch_ms=9",
        "WARNING r-1: http_clock_ahead ahead_s=9",
        "2 races: 1 written, 0 skipped, 1 failed, in 0.6 s; the slowest was Te Rimu R5 (r-1)",
        "2 images: 1 described, 0 skipped, 1 failed, in 0.6 s",
        "partition_creation_complete made=3",
    ]


@pytest.mark.parametrize(("form", "stream", "is_json"), [("json", Terminal, True), ("text", StringIO, False)])
def test_the_form_can_be_set(form: str, stream: type[StringIO], is_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", written := stream())
    monkeypatch.setenv("LOG_FORMAT", form)
    say_batch()
    assert written.getvalue().startswith("{") is is_json


def test_a_line_that_nobody_reads_is_lost_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    unread = os.fdopen(write, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", unread)
    get_logger().warning("written")
    with pytest.raises(BrokenPipeError):
        unread.close()
