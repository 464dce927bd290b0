"""Jobs that show what the steps of a process share, and what each has for itself."""

import asyncio
import threading
import warnings
from collections.abc import Iterator

import dagster as dg
from dagster._utils.warnings import disable_dagster_warnings

from raceday_dagster.dagster_plugins.executor import threaded_executor
from raceday_dagster_tests.integration.dagster_plugins.executor_jobs import add_up, fan_out
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import IN_MEMORY, PATIENCE_S, probe

# Resources.


@dg.resource
def noted_resource(_: dg.InitResourceContext) -> Iterator[str]:
    probe.note("resource up")
    yield "resource"
    probe.note(f"resource down, {len(probe.inside)} inside")


@dg.op(required_resource_keys={"noted"})
def use_resource(number: int) -> int:
    with probe.counted():
        probe.note("used")
        if number == 0:
            raise ValueError("a failing user")
        probe.release.wait(0.02)
    return number


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY | {"noted": noted_resource})
def resource_job() -> None:
    fan_out().map(use_resource)


# Things that Dagster keeps per process or per thread.


@dg.resource
def meeting_resource(_: dg.InitResourceContext) -> asyncio.Barrier:
    return asyncio.Barrier(5)


@dg.op(required_resource_keys={"meeting"})
async def meet_async(context: dg.OpExecutionContext, number: int) -> int:
    async with asyncio.timeout(PATIENCE_S):
        await context.resources.meeting.wait()
        dg.get_dagster_logger().info("python line of %s", number)
        await context.resources.meeting.wait()
    return number


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY | {"meeting": meeting_resource})
def async_job() -> None:
    add_up(fan_out().map(meet_async).collect())


@dg.op
def log_together(context: dg.OpExecutionContext, number: int) -> None:
    probe.barrier.wait(PATIENCE_S)
    dg.get_dagster_logger().info("python line of %s", context.get_mapping_key())
    context.log.info("context line of %s", context.get_mapping_key())
    probe.barrier.wait(PATIENCE_S)


@dg.op
def log_from_a_helper_thread(number: int) -> None:
    probe.barrier.wait(PATIENCE_S)
    helper = threading.Thread(target=dg.get_dagster_logger().info, args=(f"helper line of {number}",))
    helper.start()
    helper.join()
    probe.barrier.wait(PATIENCE_S)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def logging_job() -> None:
    fan_out().map(log_together)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def helper_logging_job() -> None:
    fan_out().map(log_from_a_helper_thread)


@dg.op
def look_at_context(context: dg.OpExecutionContext, number: int) -> None:
    probe.barrier.wait(PATIENCE_S)
    filters = warnings.filters
    with disable_dagster_warnings():
        probe.note(f"filters swapped: {warnings.filters is not filters}")
    found = dg.OpExecutionContext.get().get_mapping_key()
    probe.note(f"own context: {found == context.get_mapping_key() == str(number)}")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def context_job() -> None:
    fan_out().map(look_at_context)
