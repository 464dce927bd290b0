"""Which operating-system account runs the embedded PostgreSQL, and running a command as that account.

postgres refuses to be root. Root therefore lends it the account that owns the data already, else ``postgres``, else
``nobody``; nobody else can lend anything, so they run it as themselves. No account is ever made, no parent folder's
mode ever changed. Where the server's folders lie is in ``placement``.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raceday_dagster.errors import SandboxError

LENT_ACCOUNTS = ("postgres", "nobody")

# Nothing of ours reaches the server: its environment stays readable to its account for as long as it runs.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code, and its standard output and error as one text."""

    returncode: int
    output: str

    @property
    def reason(self) -> str:
        """The last line that says something, for a one-line error."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.returncode}"


@dataclass(frozen=True)
class ServerAccount:
    """The account that owns the server's processes and its data folder."""

    uid: int
    gid: int

    @property
    def is_lent(self) -> bool:
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
                    user=self.uid if self.is_lent else None,
                    group=self.gid if self.is_lent else None,
                    extra_groups=[] if self.is_lent else None,
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
        SandboxError: The folder belongs to somebody we cannot act as, or root finds no account to lend.
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
    for name in LENT_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerAccount(entry.pw_uid, entry.pw_gid)
    raise SandboxError(
        f"PostgreSQL does not run as root, and this machine has none of the accounts {', '.join(LENT_ACCOUNTS)}: "
        "run this as an ordinary user, or set DATABASE_URL to a server of yours"
    )
