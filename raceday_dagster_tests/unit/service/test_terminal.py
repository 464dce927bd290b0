"""What is printed, and that printing holds nobody up."""

from __future__ import annotations

import os

from raceday_dagster.service.terminal import MOST_WAITING, printing_to


def test_lines_come_in_order_and_what_the_encoding_lacks_is_escaped() -> None:
    read, write = os.pipe()
    with printing_to(write, "latin-1") as say:
        say("Ōtaki R1")
        say("é")
    os.close(write)
    with open(read, "rb") as said:
        assert said.read() == b"\\u014ctaki R1\n\xe9\n"


def test_a_terminal_that_stands_still_holds_nobody_up() -> None:
    read, write = os.pipe()
    long = "x" * 1000
    with printing_to(write, "utf-8") as say:
        for _ in range(2 * MOST_WAITING):
            say(long)
    with open(read, "rb") as said:
        assert said.read(1001) == f"{long}\n".encode()


def test_a_terminal_that_is_gone_costs_only_its_lines() -> None:
    read, write = os.pipe()
    os.close(read)
    with printing_to(write, "utf-8") as say:
        say("nobody reads this")
    os.close(write)
