"""Where the web UI listens, and under which names it may be asked for: whether that is allowed, and possible now.

Imports nothing of ours and no Dagster: ``raceday up`` looks before it starts anything, ``server`` when it listens.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OF_THE_PORT = {errno.EADDRINUSE, errno.EACCES}


class AddressError(Exception):
    """One line: what is wrong with the address, and the option that mends it."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_exposure(host: str, *, expose: bool) -> None:
    """Raises ``AddressError`` when others would reach ``host`` and nobody has said that they may."""
    if not expose and not is_loopback(host):
        raise AddressError(f"--host {host} is reached from other machines and the UI has no login: add --expose")


def check_names(names: Iterable[str]) -> None:
    """Raises ``AddressError`` for the first that is no bare host name."""
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise AddressError(f"--allow-host {name!r} is no host name: no scheme, no port, no wildcard")


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that accepts connections on ``host``; port 0 is any free one.

    Raises:
        AddressError: The port is in use or reserved, or the address is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # create_server repeats the address there
        option = "--port" if error.errno in _OF_THE_PORT else "--host"
        raise AddressError(f"cannot listen on {host}:{port}: {reason}; choose another with {option}") from error
