"""Where the embedded PostgreSQL keeps its files, and which operating-system account runs it.

Nothing here starts or stops a server. ``<home>/postgres`` holds all of its files, with two exceptions:

* PostgreSQL refuses to be root. Root therefore runs it as the account that owns the data already, else ``postgres``,
  else ``nobody``; no account is ever made. When that account cannot enter the home, as below ``/root``, no parent
  folder is opened to it: the state folder is then ``/var/lib/raceday/<hash of the home>``, which a reboot leaves alone.
* A socket path has room for about a hundred characters, and libpq and URLs give some of them a meaning. A longer or
  unusual one becomes ``raceday-<hash>`` in the temp directory.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raceday_dagster.errors import SandboxError

ACCOUNTS_FOR_ROOT = ("postgres", "nobody")

# Nothing of ours reaches the server: its environment stays readable to its account for as long as it runs.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

PORT = 5432  # only names the socket's file: nothing listens on TCP
LONGEST_SOCKET_PATH = 90
MAKING_PREFIX = "making-"  # folders of the state folder that are not whole yet
UNREACHABLE_HOMES = Path("/var/lib/raceday")

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
# pg_ctl hands the data folder to a shell between double quotes.
_SHELL_MEANING = re.compile(r"[\"$`\\\n]")


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code, and its standard output and error as one text."""

    returncode: int
    output: str

    @property
    def reason(self) -> str:
        """The first error that it told, else the last line that says something, for a one-line error."""
        if told := re.search(r"(?:error|FATAL|PANIC):\s*(.*?)\s*$", self.output, flags=re.MULTILINE):
            return told[1]
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.returncode}"


@dataclass(frozen=True)
class ServerAccount:
    """The account that owns the server's processes and its data folder."""

    uid: int
    gid: int

    @property
    def is_another(self) -> bool:
        """Whether root runs the server as somebody else."""
        return self.uid != os.geteuid()

    def run(self, command: Sequence[str | Path], *, timeout_s: float) -> Finished:
        """Run a command to its end as this account, in a session of its own and from the root folder.

        A session of its own keeps a Ctrl-C at the terminal away from a server that is just starting. The output goes to
        a file because a server started by the command would hold a pipe open for as long as it runs.

        Raises:
            SandboxError: The command cannot be started, or did not end in time (it is killed then).
        """
        with tempfile.TemporaryFile() as output:
            try:
                ended = subprocess.run(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                    timeout=timeout_s,
                    check=False,
                    user=self.uid if self.is_another else None,
                    group=self.gid if self.is_another else None,
                    extra_groups=[] if self.is_another else None,
                )
            except subprocess.TimeoutExpired as error:
                raise SandboxError(f"{command[0]} did not end within {timeout_s:g} s") from error
            except OSError as error:
                raise SandboxError(f"cannot run {command[0]}: {error.strerror}") from error
            output.seek(0)
            return Finished(ended.returncode, output.read().decode(errors="replace"))

    def can_enter(self, folder: Path) -> bool:
        """Whether this account can reach what lies in the folder: asked of the system, so ACLs count too."""
        return self.run(["test", "-x", folder], timeout_s=10).returncode == 0


def choose_account(data_dir: Path) -> ServerAccount:
    """The account for a server on this data folder, which need not exist yet.

    Raises:
        SandboxError: The folder belongs to somebody we cannot act as, or root finds no account to run the server as.
    """
    owner = data_dir.stat() if data_dir.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise SandboxError(
                f"{data_dir} belongs to another user (uid {owner.st_uid}): run this as that user, "
                "or set RACEDAY_HOME to a folder of yours"
            )
        return ServerAccount(os.geteuid(), os.getegid())
    if owner is not None and owner.st_uid != 0:
        return ServerAccount(owner.st_uid, owner.st_gid)
    for name in ACCOUNTS_FOR_ROOT:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerAccount(entry.pw_uid, entry.pw_gid)
    raise SandboxError(
        f"PostgreSQL does not run as root, and this machine has none of the accounts {', '.join(ACCOUNTS_FOR_ROOT)}: "
        "run this as an ordinary user, or set DATABASE_URL to a server of yours"
    )


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
        """Beside the data, or where ``choose_socket_folder`` says."""
        return choose_socket_folder(self.state_dir / "socket", f".s.PGSQL.{PORT}")


def place(home: Path) -> Placement:
    """Decide where the server of this home lies; creates nothing.

    Args:
        home: ``RACEDAY_HOME``, absolute and without symbolic links.

    Raises:
        SandboxError: The path cannot be handed to PostgreSQL's tools, or no account fits (``choose_account``).
    """
    if _SHELL_MEANING.search(str(home)):
        raise SandboxError(f'{home} holds one of " $ ` \\ or a line break: set RACEDAY_HOME to a plainer path')
    inside = Placement(home / "postgres", choose_account(home / "postgres" / "data"))
    outside = UNREACHABLE_HOMES / _hash(home)
    # Where its data lies was decided when it was made. To ask again costs a fork, which a process of many threads and
    # gRPC channels, such as the supervisor that looks five times a second, had better not make.
    if inside.data_dir.exists() or not inside.account.is_another:
        return inside
    if (outside / "data").exists() or not inside.account.can_enter(_nearest_existing(home)):
        return Placement(outside, choose_account(outside / "data"))
    return inside


def make_folders(placement: Placement) -> None:
    """Make the state folder (passable) and the socket and log folders (0700, the server account's).

    Raises:
        SandboxError: Somebody else's folder, or something that is no folder, stands in the way.
        OSError: The file system refuses.
    """
    placement.state_dir.mkdir(parents=True, exist_ok=True)
    if placement.account.is_another:
        # Ours, not the user's, and what lies in them is 0700: only the mask of the caller could have closed them.
        placement.state_dir.chmod(0o755)
        if placement.state_dir.parent == UNREACHABLE_HOMES:
            UNREACHABLE_HOMES.chmod(0o755)
    make_private_folder(placement.log_dir, placement.account)
    make_private_folder(placement.socket_dir, placement.account)
    if placement.account.is_another and not placement.account.can_enter(placement.socket_dir):
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


def choose_socket_folder(beside: Path, socket: str) -> Path:
    """``beside``, or a short one in the temp directory where that path is too long or unusual for this socket.

    Raises:
        SandboxError: So is that of the temp directory itself.
    """
    hashed = Path(tempfile.gettempdir()).resolve() / f"raceday-{_hash(beside)}"
    for folder in (beside, hashed):
        path = str(folder / socket)
        if len(path) <= LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(path):
            return folder
    raise SandboxError(f"{hashed} is no path for a socket: set TMPDIR to a short path of plain characters, as /tmp")


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
