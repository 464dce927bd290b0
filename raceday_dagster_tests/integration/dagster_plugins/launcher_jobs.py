"""The code location of the launcher's tests: a run that ends when it is told to, or not even then."""

import time
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError


class WaitConfig(dg.Config):
    go: str
    """Path of the file whose appearance ends the step."""
    deaf: bool = False
    """Whether the step goes on when it is interrupted."""


@dg.op
def wait(config: WaitConfig) -> None:
    while not Path(config.go).exists():
        try:
            time.sleep(0.02)
        except DagsterExecutionInterruptedError:
            if not config.deaf:
                raise


@dg.job(executor_def=dg.in_process_executor)
def wait_job() -> None:
    wait()


defs = dg.Definitions(jobs=[wait_job])
