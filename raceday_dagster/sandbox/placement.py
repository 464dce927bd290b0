"""Where the embedded PostgreSQL keeps its things: state folder, data, socket, log, lock.

Nothing here starts or stops anything. ``<home>/postgres`` holds all of it, with two exceptions:

* Root lends the server an account (``server_account``) that may be unable to enter the home, as below ``/root``. No
  parent is opened to it; the state folder is then ``/var/lib/raceday/<hash of the home>``, which a reboot leaves alone.
* A socket path has room for about a hundred characters, and libpq and URLs give some of them a meaning. A longer or
  unusual one becomes ``raceday-<hash>`` in the temp directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox.server_account import ServerAccount, choose_account

PORT = 5432  # only names the socket's file: nothing listens on TCP
LONGEST_SOCKET_PATH = 90
MAKING_PREFIX = "making-"  # folders of the state folder that are not whole yet
UNREACHABLE_HOMES = Path("/var/lib/raceday")

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
# pg_ctl hands the data folder to a shell between double quotes.
_SHELL_MEANING = re.compile(r"[\"$`\\\n]")


@dataclass(frozen=True)
class Placement:
    """The folders of one embedded server and the account it runs as."""

    state_dir: Path
    account: ServerAccount

    @property
    def data_dir(self) -> Path:
        return self.state_dir / "data"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "log"

    @property
    def log_file(self) -> Path:
        return self.log_dir / "postgres.log"

    @property
    def lock_file(self) -> Path:
        return self.state_dir / "lock"

    @property
    def socket_dir(self) -> Path:
        """Beside the data, or a short folder in the temp directory.

        Raises:
            SandboxError: The temp directory's own path is too long or unusual for a socket.
        """
        beside = self.state_dir / "socket"
        if _fits_a_socket(beside):
            return beside
        hashed = Path(tempfile.gettempdir()).resolve() / f"raceday-{_hash(self.state_dir)}"
        if _fits_a_socket(hashed):
            return hashed
        raise SandboxError(f"{hashed} is no path for a socket: set TMPDIR to a short path of plain characters, as /tmp")


def place(home: Path) -> Placement:
    """Decide where the server of this home lies; creates nothing.

    Args:
        home: ``RACEDAY_HOME``, absolute and without symbolic links.

    Raises:
        SandboxError: The path cannot be handed to PostgreSQL's tools, or no account fits (``choose_account``).
    """
    if _SHELL_MEANING.search(str(home)):
        raise SandboxError(f'{home} holds one of " $ ` \\ or a line break: set RACEDAY_HOME to a plainer path')
    inside = home / "postgres"
    placement = Placement(inside, choose_account(inside / "data"))
    if not placement.account.is_lent or placement.account.can_enter(_nearest_existing(home)):
        return placement
    outside = UNREACHABLE_HOMES / _hash(home)
    return Placement(outside, choose_account(outside / "data"))


def make_folders(placement: Placement) -> None:
    """Make the state folder (passable) and the socket and log folders (0700, the server account's).

    Raises:
        SandboxError: Somebody else's folder, or something that is no folder, stands in the way.
        OSError: The file system refuses.
    """
    placement.state_dir.mkdir(parents=True, exist_ok=True)
    if placement.account.is_lent:
        # Ours, not the user's, and what lies in them is 0700: only the mask of the caller could have closed them.
        placement.state_dir.chmod(0o755)
        if placement.state_dir.parent == UNREACHABLE_HOMES:
            UNREACHABLE_HOMES.chmod(0o755)
    make_private_folder(placement.log_dir, placement.account)
    make_private_folder(placement.socket_dir, placement.account)
    if placement.account.is_lent and not placement.account.can_enter(placement.socket_dir):
        raise SandboxError(
            f"{placement.socket_dir} is closed to the account that runs PostgreSQL (uid {placement.account.uid}): "
            "set TMPDIR to a folder that all can enter, as /tmp"
        )


def make_private_folder(folder: Path, account: ServerAccount) -> None:
    """Make a folder 0700 and give it to the account; one that exists must be its, or ours."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise SandboxError(f"{folder} is in the way: it is not a folder") from error
    # The temp directory is shared: a link or a folder that somebody else put there is not trusted.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
        raise SandboxError(f"{folder} is in the way: it is a link or belongs to another user")
    folder.chmod(0o700)
    if found.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)


def _fits_a_socket(folder: Path) -> bool:
    path = str(folder / f".s.PGSQL.{PORT}")
    return len(path) <= LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(path) is not None


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
