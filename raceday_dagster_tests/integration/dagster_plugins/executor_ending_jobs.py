"""Jobs whose steps ask for another try, are interrupted or leave in ways that no step should."""

import asyncio
import os
import signal

import dagster as dg
from dagster._core.execution.retries import RetryMode

from raceday_dagster.dagster_plugins.executor import ThreadedExecutor, threaded_executor
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import IN_MEMORY, PATIENCE_S, probe

# Retries.


@dg.op
def follow(number: int) -> int:
    probe.note(f"follow {number}")
    return number


@dg.op
def stand_alone() -> None:
    probe.note("stand_alone")


@dg.op
def ask_for_retries(context: dg.OpExecutionContext) -> int:
    probe.note(f"attempt {context.retry_number}")
    raise dg.RetryRequested(max_retries=2)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def retry_job() -> None:
    follow(ask_for_retries())


@dg.executor(name="deferring")
def deferring_executor(_: dg.InitExecutorContext) -> ThreadedExecutor:
    return ThreadedExecutor(max_concurrent=2, retries=RetryMode.DEFERRED)


@dg.job(executor_def=deferring_executor, resource_defs=IN_MEMORY)
def deferred_retry_job() -> None:
    follow(ask_for_retries())


# Interrupts and what is no ordinary error.


@dg.op(
    config_schema={"signals": dg.Field(int, default_value=1), "released_by_test": dg.Field(bool, default_value=False)}
)
def interrupt_run(context: dg.OpExecutionContext) -> int:
    for _ in range(context.op_config["signals"]):
        os.kill(os.getpid(), signal.SIGINT)
    if context.op_config["released_by_test"]:
        probe.release.wait(PATIENCE_S)
    probe.note("step ended")
    return 1


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def interrupted_job() -> None:
    follow(interrupt_run())


@dg.op(config_schema={"blocks": bool})
async def interrupt_run_and_wait(context: dg.OpExecutionContext) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    if context.op_config["blocks"]:
        probe.release.wait(PATIENCE_S)
    try:
        await asyncio.sleep(PATIENCE_S)
    except asyncio.CancelledError:
        probe.note("cancelled")
        raise


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def interrupted_async_job() -> None:
    interrupt_run_and_wait()


@dg.op(config_schema={"file": str})
def run_until_killed(context: dg.OpExecutionContext) -> int:
    with open(context.op_config["file"], "w") as file:
        file.write("inside")
    probe.release.wait()
    return 1


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def endless_job() -> None:
    follow(run_until_killed())


@dg.op
def leave_by_exit() -> int:
    raise SystemExit(3)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def exiting_job() -> None:
    follow(leave_by_exit())
    stand_alone()


@dg.op
async def leave_async_by_exit() -> int:
    raise SystemExit(3)


@dg.op(ins={"start": dg.In(dg.Nothing)})
async def stand_alone_async() -> None:
    probe.note("stand_alone")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def exiting_async_job() -> None:
    follow(leave_async_by_exit())
    stand_alone_async()


@dg.op
def leave_by_keyboard_interrupt() -> int:
    raise KeyboardInterrupt


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def keyboard_job() -> None:
    follow(leave_by_keyboard_interrupt())


@dg.op
def wait_for_release() -> None:
    probe.note("entered")
    probe.release.wait(PATIENCE_S)
    probe.note("left")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def waiting_job() -> None:
    wait_for_release()
