"""The parts of the service: the command of each, how it shows that it is ready, and how long it may take to end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from raceday_dagster.errors import ServiceError
from raceday_dagster.service.child_output import ChildOutput, LogFile, find_secrets
from raceday_dagster.service.processes import ChildProcess
from raceday_dagster.service.service_files import LOCATION, SOCKET, write_workspace
from raceday_dagster.service.supervisor import Part
from raceday_dagster.service.surroundings import Surroundings
from raceday_dagster.web.address import AddressError, check_exposure, check_names, open_listener

UI_STOP_S, DAEMON_STOP_S = 2.0, 2.0
CODE_SERVER_STOP_S = 4.8
"""After the other two, which end side by side: the last look and the sandbox need what is left of ten seconds."""
CODE_SERVER, DAEMON, WEB = "code-server", "daemon", "web"
LOOPBACK = "127.0.0.1"
_ANSWER_S = 1.0


@dataclass(frozen=True)
class Web:
    """How the web UI listens; anything but the defaults is checked and warned about by ``webserver``."""

    port: int = 3000
    host: str = LOOPBACK
    expose: bool = False
    read_only: bool = False
    allow_hosts: tuple[str, ...] = ()

    @property
    def reachable_host(self) -> str:
        """Where this machine finds it."""
        return LOOPBACK if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104  (compared, not bound)

    @property
    def url(self) -> str:
        """For people on this machine."""
        host = self.reachable_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """Of ``python -m raceday_dagster.web.server``, but for the workspace."""
        flags = [*(["--read-only"] if self.read_only else []), *(["--expose"] if self.expose else [])]
        names = [part for name in self.allow_hosts for part in ("--allow-host", name)]
        return ["--port", str(self.port), "--host", self.host, *flags, *names]


def refuse_host(web: Web) -> None:
    """Raises ``ServiceError`` when the UI may not listen on that address, or not answer to those names."""
    try:
        check_exposure(web.host, expose=web.expose)
        check_names(web.allow_hosts)
    except AddressError as error:
        raise ServiceError(str(error)) from error


def refuse_port(web: Web) -> None:
    """Raises ``ServiceError`` when the UI cannot listen: better now than after half of the service has started."""
    try:
        open_listener(web.host, web.port).close()
    except AddressError as error:
        raise ServiceError(str(error)) from error


def build_parts(
    surroundings: Surroundings,
    folder: Path,
    web: Web,
    say: Callable[[str], None],
    *,
    is_daemon_ready: Callable[[], bool],
    before_code_server: Callable[[], None],
) -> list[Part]:
    """Code server, daemon, web UI: the order of their start.

    Args:
        surroundings: Their environment.
        folder: Of the socket and the workspace.
        web: How the UI listens.
        say: Prints one line.
        is_daemon_ready: Whether every daemon has given a sign of life.
        before_code_server: Called before a code server that died is started again.

    Raises:
        OSError: The folder or the logs beside it cannot be written.
    """
    code_socket, workspace = folder / SOCKET, str(write_workspace(folder))
    definitions = ("--module-name", "raceday_dagster.definitions", "--location-name", LOCATION)
    environment = {**surroundings.environment, "PYTHONUNBUFFERED": "1"}
    secrets = find_secrets(environment)
    logs = surroundings.home / "logs"

    def build_start(name: str, *arguments: str) -> Callable[[], ChildProcess]:
        output = ChildOutput(name, LogFile(logs / f"{name}.log"), say, secrets)
        return lambda: ChildProcess([sys.executable, "-m", *arguments], environment, output)

    def clear_code_server() -> None:
        code_socket.unlink(missing_ok=True)
        before_code_server()

    code_socket.unlink(missing_ok=True)
    return [
        Part(
            name=CODE_SERVER,
            log_file=logs / f"{CODE_SERVER}.log",
            start=build_start(CODE_SERVER, "dagster", "api", "grpc", *definitions, "--socket", str(code_socket)),
            is_ready=lambda: answers_socket(code_socket),
            stop_within_s=CODE_SERVER_STOP_S,
            before_restart=clear_code_server,
            opens_the_way=True,
        ),
        Part(
            name=DAEMON,
            log_file=logs / f"{DAEMON}.log",
            start=build_start(DAEMON, "dagster._daemon", "run", "-w", workspace),
            is_ready=is_daemon_ready,
            stop_within_s=DAEMON_STOP_S,
        ),
        Part(
            name=WEB,
            log_file=logs / f"{WEB}.log",
            start=build_start(WEB, "raceday_dagster.web.server", "--workspace", workspace, *web.arguments),
            is_ready=lambda: answers_http(web.reachable_host, web.port),
            stop_within_s=UI_STOP_S,
        ),
    ]


def answers_socket(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def answers_http(host: str, port: int) -> bool:
    """Whether the web UI answers, whatever it says."""
    connection = HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/server_info")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
