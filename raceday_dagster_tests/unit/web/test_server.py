"""The command that serves the web UI: on which address, and for which host names."""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner

from raceday_dagster.web import server
from raceday_dagster.web.guard import LOOPBACK_HOSTS, HostRule

SERVE_UI = server.serve_ui


@dataclass
class Opened:
    """Stands where the server stands; remembers what it was to serve."""

    served: list[tuple[HostRule, bool]] = field(default_factory=list)

    def serve(
        self, workspace: str, listener: socket.socket, hosts: HostRule, read_health: object, *, read_only: bool
    ) -> None:
        assert read_health is None
        self.served.append((hosts, read_only))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened()
    one, other = socket.socketpair()
    other.close()
    monkeypatch.setattr(server, "open_listener", lambda host, port: one)
    monkeypatch.setattr(server, "serve_ui", opened.serve)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return opened


def type_webserver(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(server.main, ["--workspace", __file__, *arguments])
    return result.exit_code, result.stderr


def test_only_this_machine_is_served_by_default(opened: Opened) -> None:
    assert type_webserver() == (0, "")
    assert opened.served == [(HostRule(), False)]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "racing.example"])
def test_an_address_that_others_reach_needs_a_word_and_gets_a_warning(opened: Opened, host: str) -> None:
    code, said = type_webserver("--host", host)
    assert code == 1
    assert "--expose" in said
    assert said.count("\n") == 1
    assert not opened.served

    code, said = type_webserver("--host", host, "--expose", "--read-only")
    assert code == 0
    assert "warning" in said
    assert "no login" in said
    assert said.count("\n") == 1
    assert opened.served == [(HostRule(LOOPBACK_HOSTS | {host}, any_address=True), True)]


def test_a_name_can_be_allowed_but_no_wildcard(opened: Opened) -> None:
    assert type_webserver("--allow-host", "Racing.example", "--allow-host", "other")[0] == 0
    assert opened.served == [(HostRule(LOOPBACK_HOSTS | {"racing.example", "other"}), False)]
    for wrong in ("*", "*.example", "http://racing.example", "racing.example:3000", ""):
        code, said = type_webserver("--allow-host", wrong)
        assert code == 1
        assert said == f"Error: --allow-host {wrong!r} is no host name: no scheme, no port, no wildcard\n"


def test_a_server_without_an_instance_says_so(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(server, "serve_ui", SERVE_UI)
    assert type_webserver() == (1, "Error: DAGSTER_HOME is not set: whose runs are to be shown?\n")
