"""Dagster's web UI for one workspace file, behind the guard, on 127.0.0.1 unless told otherwise.

    python -m raceday_dagster.webserver --workspace FILE [--port P] [--read-only] [--allow-host NAME]...

Does what ``dagster-webserver`` does to serve its UI, without telemetry. What the guard lets through: ``web_guard``.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import signal
import socket
import sys

import click
import uvicorn
from dagster import DagsterInstance
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver

from raceday_dagster.web_guard import LOOPBACK_HOSTS, HostRule, WebGuard

DEFAULT_PORT = 3000
STATEMENT_TIMEOUT_MS = 15_000
POOL_RECYCLE_S = 3_600
POOL_MAX_OVERFLOW = 20
LIVE_DATA_POLL_MS = 2_000
STOP_TIMEOUT_S = 2
"""How long answers under way may take once the server is told to end: an open page's websocket never ends itself."""

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_allowed_hosts(
    _context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    """``names`` in lower case, if each is a bare host name."""
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is no host name: no scheme, no port, no wildcard")
    return tuple(name.lower() for name in names)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workspace", "-w", required=True, type=click.Path(exists=True, dir_okay=False), help="Workspace file.")
@click.option("--port", "-p", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--expose", is_flag=True, help="Allow a --host that other machines reach. There is no login.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", callback=check_allowed_hosts, help="A host name to answer to, too."
)
@click.option("--read-only", is_flag=True, help="Launch nothing, switch nothing on or off.")
def main(workspace: str, port: int, host: str, expose: bool, allow_host: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster's web UI for a workspace file until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background process ignores it otherwise
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not is_loopback(host):
        if not expose:
            raise click.ClickException(
                f"--host {host} is reached from other machines and the UI has no login: --expose"
            )
        click.echo(f"warning: the UI on {host} has no login: whoever reaches it can launch and end runs", err=True)
    try:
        with open_listener(host, port) as listener:
            names = LOOPBACK_HOSTS | {host.lower(), *allow_host}
            serve_ui(workspace, listener, HostRule(names, any_address=expose), read_only=read_only)
    except KeyboardInterrupt:
        sys.exit(0)
    except DagsterHomeNotSetError:
        raise click.ClickException("DAGSTER_HOME is not set: whose runs are to be shown?") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that accepts connections on ``host``; port 0 is any free one.

    Raises:
        click.ClickException: The port is in use, or the address is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(f"port {port} of {host} is in use: choose another with --port") from error
        raise click.ClickException(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def serve_ui(workspace: str, listener: socket.socket, hosts: HostRule, *, read_only: bool) -> None:
    """Serves the instance of ``DAGSTER_HOME`` and the code locations of ``workspace`` until a signal.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; everything is closed.
        DagsterHomeNotSetError: No instance is named.
    """
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_S, POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance, WorkspaceFileTarget([workspace]), version=__version__, read_only=read_only
        ) as context:
            ui = DagsterWebserver(context, live_data_poll_rate=LIVE_DATA_POLL_MS).create_asgi_app()
            config = uvicorn.Config(
                WebGuard(ui, hosts),
                log_level="warning",
                lifespan="off",  # the UI has none, and uvicorn's is cancelled noisily on a signal
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
            host, port = listener.getsockname()[:2]
            click.echo(f"Dagster's UI: http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
