"""Dagster's web UI for one workspace file and ``market``'s pages, behind the guard, on 127.0.0.1 unless told otherwise.

    python -m raceday_dagster.web.server --workspace FILE [--port P] [--read-only] [--allow-host NAME]...

Does what ``dagster-webserver`` does to serve its UI, without telemetry. What is let through is decided in ``guard``.
The pages are at ``/races``, of the database in ``DATABASE_URL``.
"""

from __future__ import annotations

import atexit
import gc
import signal
import socket
import sys
from collections.abc import Callable

import click
import uvicorn
from dagster import DagsterInstance
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.types import ASGIApp, Receive, Scope, Send

from raceday_dagster.errors import SettingsError
from raceday_dagster.market.api import ReadHealth
from raceday_dagster.market.app import build_market_app, is_ours
from raceday_dagster.settings import Settings
from raceday_dagster.web.address import AddressError, check_exposure, check_names, is_loopback, open_listener
from raceday_dagster.web.guard import LOOPBACK_HOSTS, HostRule, WebGuard

DEFAULT_PORT = 3000
STATEMENT_TIMEOUT_MS = 15_000
POOL_RECYCLE_S = 3_600
POOL_MAX_OVERFLOW = 20
LIVE_DATA_POLL_MS = 2_000
STOP_TIMEOUT_S = 2
"""How long answers under way may take once the server is told to end: an open page's websocket never ends itself."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workspace", "-w", required=True, type=click.Path(exists=True, dir_okay=False), help="Workspace file.")
@click.option("--port", "-p", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--expose", is_flag=True, help="Allow a --host that other machines reach. There is no login.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A host name to answer to, too.")
@click.option("--read-only", is_flag=True, help="Launch nothing, switch nothing on or off.")
@click.pass_obj
def main(
    read_health: ReadHealth | None,
    workspace: str,
    port: int,
    host: str,
    expose: bool,
    allow_host: tuple[str, ...],
    read_only: bool,
) -> None:
    """Serve Dagster's web UI for a workspace file until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background process ignores it otherwise
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    atexit.register(gc.freeze)  # the interpreter's last look for garbage takes longer than the server's end
    if expose and not is_loopback(host):
        click.echo(f"warning: the UI on {host} has no login: whoever reaches it can launch and end runs", err=True)
    try:
        check_exposure(host, expose=expose)
        check_names(allow_host)
        with open_listener(host, port) as listener:
            names = LOOPBACK_HOSTS | {name.lower() for name in (host, *allow_host)}
            serve_ui(workspace, listener, HostRule(names, any_address=expose), read_health, read_only=read_only)
    except KeyboardInterrupt:
        sys.exit(0)
    except (AddressError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except DagsterHomeNotSetError:
        raise click.ClickException("DAGSTER_HOME is not set: whose runs are to be shown?") from None


def serve_ui(
    workspace: str, listener: socket.socket, hosts: HostRule, read_health: ReadHealth | None, *, read_only: bool
) -> None:
    """Serves the instance of ``DAGSTER_HOME``, the code locations of ``workspace`` and the races of ``DATABASE_URL``
    until a signal.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; everything is closed.
        DagsterHomeNotSetError: No instance is named.
        SettingsError: A variable is wrong.
    """
    settings = Settings.from_environment()
    market = build_market_app(
        settings.database_url,
        read_health,
        listen_url=settings.listen_database_url,
        far_interval_s=settings.far_interval_s,
    )
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_S, POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance, WorkspaceFileTarget([workspace]), version=__version__, read_only=read_only
        ) as context:
            ui = DagsterWebserver(context, live_data_poll_rate=LIVE_DATA_POLL_MS).create_asgi_app()
            config = uvicorn.Config(
                WebGuard(put_beside(ui, market), hosts),
                log_level="warning",
                lifespan="off",  # the UI has none, and uvicorn's is cancelled noisily on a signal
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
            host, port = listener.getsockname()[:2]
            click.echo(f"Dagster's UI: http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
            _Server(config, market.state.end_streams).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends what would not end by itself before it waits for the answers under way."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)


def put_beside(ui: ASGIApp, market: ASGIApp) -> ASGIApp:
    """The pages at their addresses, Dagster's UI at all others."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and is_ours(scope["path"])
        await (market if is_page else ui)(scope, receive, send)

    return serve


if __name__ == "__main__":
    main()
