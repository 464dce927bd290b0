"""Jobs that show what runs at once, in which order and within which limits.

They stand in modules of their own so that Dagster can rebuild them.
"""

from collections.abc import Iterator

import dagster as dg

from raceday_dagster.dagster_plugins.executor import build_threaded_executor, threaded_executor
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import IN_MEMORY, PATIENCE_S, probe


@dg.op(out=dg.DynamicOut(int), config_schema={"items": dg.Field(int, default_value=5)})
def fan_out(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput[int]]:
    for number in range(context.op_config["items"]):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.op
def meet(number: int) -> int:
    """Ends only when as many steps as the barrier has parties are inside."""
    with probe.counted():
        probe.barrier.wait(PATIENCE_S)
    return number


@dg.op
def double(number: int) -> int:
    with probe.counted():
        probe.note(f"double {number}")
    return number * 2


@dg.op
def add_up(numbers: list[int]) -> int:
    probe.note(f"sum {sum(numbers)}")
    return sum(numbers)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def meeting_job() -> None:
    fan_out().map(meet)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def doubling_job() -> None:
    add_up(fan_out().map(double).collect())


@dg.job(executor_def=build_threaded_executor(default_max_concurrent=2), resource_defs=IN_MEMORY)
def two_at_once_job() -> None:
    fan_out().map(meet)


def _at_most_three(requested: int) -> int:
    probe.note(f"asked for {requested}")
    return min(requested, 3)


@dg.job(executor_def=build_threaded_executor(ceiling=_at_most_three), resource_defs=IN_MEMORY)
def ceiling_job() -> None:
    fan_out().map(meet)


# Depth first: priorities rise along the chain.


@dg.op(tags={"dagster/priority": "1"})
def enter_item(number: int) -> int:
    probe.enter(number)
    return number


@dg.op(tags={"dagster/priority": "2"})
def pass_item(number: int) -> int:
    return number


@dg.op(tags={"dagster/priority": "3"})
def leave_item(number: int) -> int:
    probe.leave(number)
    return number


@dg.graph
def chain(number: int) -> int:
    return leave_item(pass_item(enter_item(number)))


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def depth_first_job() -> None:
    add_up(fan_out().map(chain).collect())


# Limits.


@dg.op(tags={"lane": "slow"})
def crowd(number: int) -> int:
    with probe.met_others():
        return number


@dg.op(pool="lane")
def crowd_in_pool(number: int) -> int:
    with probe.met_others():
        return number


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def tagged_job() -> None:
    fan_out().map(crowd)


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def pooled_job() -> None:
    fan_out().map(crowd_in_pool)


@dg.op(out={"first": dg.Out(int), "second": dg.Out(int)})
def release_first() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "first")
    probe.release.wait(PATIENCE_S)
    probe.note("producer ends")
    yield dg.Output(2, "second")


@dg.op
def release_producer(number: int) -> None:
    probe.note("consumer runs")
    probe.release.set()


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def early_output_job() -> None:
    first, _ = release_first()
    release_producer(first)
