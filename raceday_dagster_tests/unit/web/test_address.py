"""Whether the web UI may listen on an address, and what is said when it cannot."""

from __future__ import annotations

import errno
import socket

import pytest

from raceday_dagster.errors import ServiceError
from raceday_dagster.service.parts import Web, check_address
from raceday_dagster.web.address import AddressError, check_names, is_loopback, open_listener


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("10.0.0.1", False),
        ("raceday.nz", False),
        ("", False),
    ],
)
def test_only_this_machine_reaches_a_loopback_address_however_it_is_written(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            OSError(errno.EADDRINUSE, "Address already in use (while at it)"),
            "Address already in use; choose another with --port",
        ),
        (OSError(errno.EACCES, "Permission denied (while at it)"), "Permission denied; choose another with --port"),
        (
            OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address (while at it)"),
            "Cannot assign requested address; choose another with --host",
        ),
        (
            socket.gaierror(-2, "Name or service not known (while at it)"),
            "Name or service not known; choose another with --host",
        ),
    ],
)
def test_the_option_that_mends_it_is_named(fault: OSError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise fault

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(AddressError) as refused:
        open_listener("192.0.2.1", 3000)
    assert str(refused.value) == f"cannot listen on 192.0.2.1:3000: {said}"
    with pytest.raises(ServiceError, match=said):
        check_address(Web(host="192.0.2.1", expose=True))


@pytest.mark.parametrize("name", ["http://racing.example", "racing.example:3000", "*", ""])
def test_the_service_refuses_a_name_that_the_ui_would_refuse(name: str) -> None:
    with pytest.raises(ServiceError, match="is no host name"):
        check_address(Web(allow_hosts=("racing.example", name)))
    check_names(("Racing.example",))
