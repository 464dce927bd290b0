"""The files of a running service: its state, its workspace, and the folder of the code server's socket."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raceday_dagster.sandbox.placement import ServerAccount, choose_socket_folder, make_private_folder

LOCATION = "raceday_dagster"
SOCKET = "code-server.sock"
STATE_FILE = "service.json"
_SHOWN_TO_OTHERS = (
    *("DATABASE_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "RACEDAY_HOME"),
    *("BROKER_URL", "NZTAB_API_URL", "RACE_COUNTRIES", "RACE_CATEGORIES"),
)


@dataclass(frozen=True)
class ServiceState:
    """What ``raceday health`` must know of a running ``raceday up``. Holds URLs with passwords: never printed."""

    pid: int
    url: str
    started_at: str
    environment: dict[str, str] = field(repr=False)
    children: dict[str, int] = field(default_factory=dict)


def choose_environment(environment: dict[str, str]) -> dict[str, str]:
    """The variables that ``raceday health`` and other lookers-on need."""
    return {name: environment[name] for name in _SHOWN_TO_OTHERS if name in environment}


def write_state(home: Path, state: ServiceState) -> None:
    """Replace the state file, readable by its owner only; at no moment is it half there."""
    path = home / STATE_FILE
    making = path.with_name(f"{STATE_FILE}.{os.getpid()}")
    making.unlink(missing_ok=True)
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(state), file, indent=2)
    making.replace(path)


def read_state(home: Path) -> ServiceState | None:
    """What the last ``raceday up`` wrote; it may be dead. ``None`` when there is no readable file."""
    try:
        return ServiceState(**json.loads((home / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_state(home: Path) -> None:
    """Forget the service, and what one that was killed left half written; it has ended."""
    for left in home.glob(f"{STATE_FILE}*"):
        left.unlink(missing_ok=True)


@contextmanager
def making_socket_folder(home: Path) -> Iterator[Path]:
    """A folder of ours alone for the socket: whoever reaches it could run code. ``<home>/service``, or a hashed one
    in the temp directory when that path is too long or unusual for a socket; that one is gone at the end.

    Raises:
        SandboxError: Somebody else's folder, or something that is no folder, stands in the way; or the temp directory's
            path is too long or unusual for a socket as well.
    """
    folder = choose_socket_folder(home / "service", SOCKET)
    make_private_folder(folder, ServerAccount(os.geteuid(), os.getegid()))
    try:
        yield folder
    finally:
        if folder.parent != home:
            shutil.rmtree(folder, ignore_errors=True)


def write_workspace(folder: Path) -> Path:
    """The workspace file that makes the daemon and the web UI use the code server; returns its path."""
    path = folder / "workspace.yaml"
    server = {"grpc_server": {"socket": str(folder / SOCKET), "location_name": LOCATION}}
    path.write_text(json.dumps({"load_from": [server]}), encoding="utf-8")  # JSON is YAML
    return path
