"""What the machines of a cluster share, on 127.0.0.1: a Redis as broker, a PgBouncer, and machines themselves.

Both servers are Debian's packages (`make cluster` installs them); whoever uses this starts and stops them.
"""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import redis
from sqlalchemy import make_url

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster.sandbox.sandbox import write_instance_config
from raceday_dagster_tests.integration.commands import PROJECT, find_free_port
from raceday_dagster_tests.waiting import wait_for

PGBOUNCER_INI = PROJECT / "docs" / "pgbouncer.ini"
SERVERS = ("redis-server", "pgbouncer")
_SBIN = "/usr/sbin:/usr/local/sbin"


def find_missing_server() -> str | None:
    """One that this machine does not have, and how to get it."""
    missing = [name for name in SERVERS if _find(name) is None]
    return f"{', '.join(missing)} not installed: `make cluster` installs them (Debian, as root)" if missing else None


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


class Broker:
    """A Redis that forgets everything when it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([str(_find("redis-server")), *options], stdout=log, stderr=log)
        wait_for(self._answers)

    def stop(self) -> None:
        """It is gone when this returns."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def count_waiting(self) -> int:
        """Messages that nobody has taken."""
        with redis.Redis(port=self.port) as client:  # a list for each priority
            return sum(int(client.llen(key)) for key in client.scan_iter("dagster*"))

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def open_broker(folder: Path) -> Iterator[Broker]:
    """A running broker, stopped at the end."""
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def open_pgbouncer(folder: Path, server: EmbeddedPostgres, database_url: str) -> Iterator[str]:
    """The URL of a database of the server through a PgBouncer with the settings of `docs/pgbouncer.ini`.

    Args:
        folder: A new one of its own, which every user may enter.
        server: Trusted on its socket, so PgBouncer needs no password.
        database_url: Of the application's role.
    """
    url = make_url(database_url)
    settings = configparser.ConfigParser()
    settings.read(PGBOUNCER_INI)
    (settings_port,) = url.normalized_query.get("port", (str(url.port or 5432),))
    settings["databases"] = {"*": f"host={url.normalized_query['host'][0]} port={settings_port}"}
    folder.mkdir(parents=True)
    users, file, log = folder / "users.txt", folder / "pgbouncer.ini", folder / "pgbouncer.log"
    port = find_free_port()
    here = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "logfile": str(log)}
    settings["pgbouncer"].update(here | {"auth_type": "trust", "auth_file": str(users)})
    users.write_text(f'"{url.username}" ""\n')
    with file.open("w") as output:
        settings.write(output)
    owner = server.status().data_dir.stat()  # PgBouncer does not run as root
    for path in (folder, users, file):
        os.chown(path, owner.st_uid, owner.st_gid)
    process = subprocess.Popen(
        [str(_find("pgbouncer")), str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    try:
        wait_for(lambda: log.exists() and "process up" in log.read_text())
        yield f"postgresql://{url.username}@127.0.0.1:{port}/{url.database}"
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Machine:
    """A `raceday worker` with folders of its own."""

    name: str
    process: psutil.Popen
    home: Path

    def read_log(self) -> str:
        """What it and its parts have said."""
        files = (self.home / "machine.log", *sorted((self.home / "logs").glob("*.log")))
        return "".join(f"== {self.name} {file.name}\n{file.read_text()}" for file in files)


@dataclass
class Cluster:
    """The instance of the machine that launches runs, and what each machine needs."""

    instance: dg.DagsterInstance
    broker: Broker
    folder: Path
    environment: Mapping[str, str]
    machines: dict[str, Machine] = field(default_factory=dict)
    """Those that run, by name."""

    def start_machines(self, *names: str, runs: int = 2) -> None:
        """Returns when they take runs."""
        for name in names:
            home = self.folder / name
            home.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "raceday_dagster.cli", "worker", "--name", name, "--runs", str(runs)]
            environment = {**self.environment, "RACEDAY_HOME": str(home)}
            environment.pop("DAGSTER_HOME", None)
            with (home / "machine.log").open("wb") as output:
                process = psutil.Popen(command, stdout=output, stderr=output, env=environment)
            self.machines[name] = Machine(name, process, home)
        for name in names:
            machine = self.machines[name]
            wait_for(
                lambda machine=machine: (
                    machine.process.poll() is not None
                    or f"machine {machine.name} (pid" in (machine.home / "machine.log").read_text()
                ),
                explain=machine.read_log,
            )
            assert machine.process.poll() is None, machine.read_log()

    def kill(self, machine: Machine) -> None:
        """SIGKILL to all of it at once, as a power failure: whatever it runs, too."""
        everything: list[psutil.Process] = []
        while new := [
            process
            for process in (machine.process, *machine.process.children(recursive=True))
            if process not in everything
        ]:
            for process in new:
                process.send_signal(signal.SIGSTOP)  # none of them sees another one die, or starts one more
            everything += new
        for process in everything:
            process.kill()
        psutil.wait_procs(everything, 30)
        del self.machines[machine.name]

    def stop(self, machine: Machine) -> None:
        """SIGTERM, as Ctrl-C."""
        machine.process.terminate()
        assert machine.process.wait(60) == 0, machine.read_log()
        del self.machines[machine.name]

    def read_logs(self) -> str:
        """What every machine that runs has said."""
        return "".join(machine.read_log() for machine in self.machines.values())


@contextmanager
def open_cluster(folder: Path, broker: Broker, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """An instance with the `dagster.cluster.yaml` of the project, and no machine yet.

    Args:
        folder: Of the homes of all machines.
        broker: Started already.
        environment: With DATABASE_URL and DAGSTER_PG_URL; of this process, too.
    """
    home = folder / "launcher"
    write_instance_config(home, of_cluster=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        cluster = Cluster(instance, broker, folder, environment)
        try:
            yield cluster
        finally:
            for machine in list(cluster.machines.values()):
                if machine.process.poll() is None:
                    cluster.stop(machine)
