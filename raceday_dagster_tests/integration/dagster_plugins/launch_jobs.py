"""What the launch tests have run: our own jobs, one that ends when it is told to, or not even then, and a function."""

import os
import time
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from raceday_dagster import definitions


class WaitConfig(dg.Config):
    go: str
    """Path of the file whose appearance ends the step."""
    ignores_interrupts: bool = False


@dg.op
def wait(config: WaitConfig) -> None:
    while not Path(config.go).exists():
        try:
            time.sleep(0.02)
        except DagsterExecutionInterruptedError:
            if not config.ignores_interrupts:
                raise


@dg.job(executor_def=dg.in_process_executor)
def wait_job() -> None:
    wait()


def echo(descriptor: int, exit_code: str) -> int:
    """Says over a socket who it is, then ends with ``exit_code`` as soon as it is told something."""
    os.write(descriptor, f"{os.getpid()} {os.getsid(0)}".encode())
    os.read(descriptor, 1)
    return int(exit_code)


defs = dg.Definitions.merge(definitions.defs, dg.Definitions(jobs=[wait_job]))
