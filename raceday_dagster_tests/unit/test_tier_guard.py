"""The guard that keeps unit tests units; the guard itself is in ``conftest.py``."""

from __future__ import annotations

import asyncio
import socket
import time

import psycopg2
import pytest


def test_a_unit_test_cannot_open_a_network_socket() -> None:
    with pytest.raises(pytest.fail.Exception, match="opened a socket"):
        socket.create_connection(("127.0.0.1", 9))


def test_a_unit_test_cannot_listen_on_a_unix_socket() -> None:
    with pytest.raises(pytest.fail.Exception, match="opened a socket"):
        socket.socket(socket.AF_UNIX)


def test_a_unit_test_may_use_an_event_loop_and_a_socketpair() -> None:
    async def answer() -> int:
        return 42

    assert asyncio.run(answer()) == 42
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_a_unit_test_cannot_connect_to_a_database() -> None:
    with pytest.raises(pytest.fail.Exception, match="connected to a database"):
        psycopg2.connect("host=/nowhere")


def test_a_unit_test_cannot_sleep_for_longer_than_a_moment() -> None:
    time.sleep(0.001)
    with pytest.raises(pytest.fail.Exception, match=r"slept 0\.2 s"):
        time.sleep(0.2)
