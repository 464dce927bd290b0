"""`python -m raceday_dagster.dagster_plugins.daemon WORKSPACE`: Dagster's daemon, with a heartbeat every few seconds.

`dagster-daemon run` has no option for it and says so every 30 s. The thread that runs the sensors writes its heartbeat
between its rounds, so one that is there is a sign of its work and not only of its process.
"""

import atexit
import gc
import sys

from dagster import DagsterInstance
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import daemon_controller_from_instance
from dagster._utils.interrupts import capture_interrupts

HEARTBEAT_EVERY_S = 4
"""A round of the sensors takes 5 s, so each of them writes one."""
POLLING_DAEMON = "SENSOR"
"""The daemon without which no race is polled, by Dagster's name for it."""


def main() -> None:
    """Run the daemons of the instance of DAGSTER_HOME until SIGTERM or SIGINT."""
    (workspace,) = sys.argv[1:]
    atexit.register(gc.freeze)  # the interpreter's last look for garbage takes longer than the daemons' end
    try:
        with (
            capture_interrupts(),
            DagsterInstance.get() as instance,
            daemon_controller_from_instance(
                instance,
                WorkspaceFileTarget([workspace]),
                heartbeat_interval_seconds=HEARTBEAT_EVERY_S,
                log_format="json",
            ) as controller,
        ):
            controller.check_daemon_loop()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
