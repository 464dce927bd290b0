"""The parts of the service: the command of each, how it shows that it works, and how long it may take to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from raceday_dagster.dagster_plugins import code_server, forked_process
from raceday_dagster.errors import ServiceError
from raceday_dagster.service.service_files import LOCATION, SOCKET, write_workspace
from raceday_dagster.service.supervisor import Part
from raceday_dagster.web.address import AddressError, check_exposure, check_names, open_listener

UI_STOP_S, DAEMON_STOP_S = 2.0, 2.0
RUN_SERVER_STOP_S, CODE_SERVER_STOP_S = 4.8, 2.0
"""After the other two; each pair ends side by side. The last look and the sandbox need what is left of ten seconds."""
LOOPBACK = "127.0.0.1"
MODULE = "raceday_dagster.definitions"
_ANSWER_S = 1


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
        """Of ``python -m raceday_dagster.service.web_ui``, but for the workspace."""
        flags = [*(["--read-only"] if self.read_only else []), *(["--expose"] if self.expose else [])]
        names = [part for name in self.allow_hosts for part in ("--allow-host", name)]
        return ["--port", str(self.port), "--host", self.host, *flags, *names]


def check_address(web: Web) -> None:
    """Raises ``ServiceError`` when the UI may not or cannot listen: better now than after half of the service is up."""
    try:
        check_exposure(web.host, expose=web.expose)
        check_names(web.allow_hosts)
        open_listener(web.host, web.port).close()
    except AddressError as error:
        raise ServiceError(str(error)) from error


def build_parts(
    dagster_home: Path,
    folder: Path,
    web: Web,
    *,
    launches_here: bool,
    does_daemon_work: Callable[[], bool | None],
    before_run_server: Callable[[], None],
    before_daemon: Callable[[], None],
) -> list[Part]:
    """Run server if need be, code server, daemon, web UI: the order of their start.

    Args:
        dagster_home: Of the run server's socket.
        folder: Of the code server's socket and the workspace.
        launches_here: Whether runs are processes of this machine, and not of the machines of a cluster.
        does_daemon_work: As ``Part.works``.
        before_run_server: Called before a run server that died is started again.
        before_daemon: The same for the daemon.

    Raises:
        OSError: The folder cannot be written.
    """
    code_socket, workspace = folder / SOCKET, str(write_workspace(folder))

    def remove_code_socket() -> None:
        code_socket.unlink(missing_ok=True)

    remove_code_socket()
    definitions = ("--module-name", MODULE, "--location-name", LOCATION, "--socket", str(code_socket))
    return [
        *([build_run_server(dagster_home, before_run_server)] if launches_here else []),
        Part(
            "code-server",
            ("dagster", "api", "grpc", *definitions, "--log-format", "json"),
            works=lambda: code_server.answers(code_socket, within_s=_ANSWER_S),
            stop_within_s=CODE_SERVER_STOP_S,
            before_restart=remove_code_socket,
            is_needed=True,
        ),
        Part(
            "daemon",
            ("raceday_dagster.dagster_plugins.daemon", workspace),
            works=does_daemon_work,
            stop_within_s=DAEMON_STOP_S,
            before_restart=before_daemon,
        ),
        Part(
            "web",
            ("raceday_dagster.service.web_ui", "--workspace", workspace, *web.arguments),
            works=lambda: answers_http(web.reachable_host, web.port),
            stop_within_s=UI_STOP_S,
        ),
    ]


def build_run_server(dagster_home: Path, before_restart: Callable[[], None] = lambda: None) -> Part:
    """The part that forks a process for each run."""
    return Part(
        "run-server",
        ("raceday_dagster.dagster_plugins.run_server",),
        works=lambda: answers_run_server(dagster_home / forked_process.SOCKET),
        stop_within_s=RUN_SERVER_STOP_S,
        before_restart=before_restart,
        is_needed=True,
    )


def answers_run_server(path: Path) -> bool:
    """Whether the run server there answers, and is not only listening."""
    try:
        with forked_process.connect(path, _ANSWER_S) as connection:
            forked_process.ask(connection, forked_process.PingRequest(ping=True))
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
