"""Jobs of every kind that Dagster has, each of which any executor may be given: `define` makes one.

They stand in a module of their own so that Dagster can rebuild them.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import dagster as dg

from raceday_dagster.dagster_plugins.executor import threaded_executor
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import probe

EXECUTORS = {"stock": dg.in_process_executor, "threaded": threaded_executor}
PARTS = dg.StaticPartitionsDefinition(["a", "b"])

# Pieces.


@dg.op
def one() -> int:
    return 1


@dg.op
def two() -> int:
    return 2


@dg.op
def add_one(number: int) -> int:
    return number + 1


@dg.op
def note(value: Any) -> Any:
    probe.note(repr(value))
    return value


@dg.op
def note_all(values: list[Any]) -> None:
    probe.note(repr(values))


@dg.op(ins={"start": dg.In(dg.Nothing)})
def note_after() -> None:
    probe.note("after")


@dg.op
def fail() -> int:
    raise ValueError("boom")


@dg.op(out=dg.DynamicOut(int), config_schema={"items": dg.Field(int, default_value=3)})
def fan_out(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput[int]]:
    for number in range(context.op_config["items"]):
        yield dg.DynamicOutput(number, mapping_key=str(number))


# Shapes.


@dg.graph
def linear() -> None:
    note(add_one(one()))


@dg.graph
def fan_in() -> None:
    note_all([one(), two(), one.alias("last")()])


@dg.graph
def in_order_without_values() -> None:
    note_after(start=[note.alias("first")(one()), note.alias("second")(two())])


@dg.graph
def add_two(number: int) -> int:
    return add_one.alias("again")(add_one(number))


@dg.graph
def nested() -> None:
    note(add_two.alias("outer")(add_two(one())))


@dg.graph
def fanned_out() -> None:
    collected = fan_out().map(add_two).collect()
    note_all(collected)


@dg.op
def fail_on_one(number: int) -> int:
    if number == 1:
        raise ValueError("one is refused")
    return number


@dg.graph
def fanned_out_with_a_failure() -> None:
    note_all(fan_out().map(lambda item: note(fail_on_one(item))).collect())
    note.alias("apart")(two())


@dg.op(out={"left": dg.Out(int, is_required=False), "right": dg.Out(int, is_required=False)})
def choose_left() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "left")


@dg.graph
def chosen() -> None:
    left, right = choose_left()
    note.alias("note_left")(left)
    note.alias("after_right")(add_one.alias("note_right")(right))
    note_all([left, right])


@dg.graph
def failing() -> None:
    note.alias("dependent")(add_one(fail()))
    note(one())


@dg.op
def fail_in_words() -> None:
    raise dg.Failure("in words", metadata={"rows": 7}, allow_retries=False)


@dg.graph
def failing_in_words() -> None:
    fail_in_words.with_retry_policy(dg.RetryPolicy(max_retries=3))()


@dg.op(out=dg.Out(int))
def return_text() -> Any:
    return "no number"


@dg.graph
def wrong_type() -> None:
    note(return_text())


@dg.op(out={"first": dg.Out(int), "second": dg.Out(int)})
def forget_second() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "first")


@dg.graph
def missing_output() -> None:
    first, second = forget_second()
    note.alias("note_first")(first)
    note.alias("note_second")(second)


# Other tries.


@dg.op(
    config_schema={"fails": dg.Field(int, default_value=1), "wait_s": dg.Field(dg.Noneable(float), default_value=0.05)}
)
def ask_again(context: dg.OpExecutionContext) -> int:
    probe.note(f"attempt {context.retry_number}")
    if context.retry_number < context.op_config["fails"]:
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=context.op_config["wait_s"])
    return context.retry_number


@dg.graph
def asking_again() -> None:
    note(ask_again())


@dg.graph
def asking_in_vain() -> None:
    note(ask_again.configured({"fails": 9, "wait_s": None}, name="ask_in_vain")())


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.01, backoff=dg.Backoff.EXPONENTIAL))
def fail_twice(context: dg.OpExecutionContext) -> int:
    probe.note(f"attempt {context.retry_number}")
    if context.retry_number < 2:
        raise ValueError("again")
    return context.retry_number


@dg.graph
def retried_by_policy() -> None:
    note(fail_twice())


# Hooks.


@dg.success_hook
def note_success(context: dg.HookContext) -> None:
    probe.note(f"success of {context.op.name}")


@dg.failure_hook
def note_failure(context: dg.HookContext) -> None:
    probe.note(f"failure of {context.op.name}: {context.op_exception}")


@dg.success_hook
def fail_in_hook(_: dg.HookContext) -> None:
    raise ValueError("the hook itself")


@dg.graph
def hooked() -> None:
    one.with_hooks({note_success, fail_in_hook})()
    fail.with_hooks({note_success, note_failure})()


# Generators and coroutines.


@dg.op(out={"first": dg.Out(int), "second": dg.Out(int)})
def say_all() -> Iterator[Any]:
    yield dg.AssetMaterialization("seen")
    yield dg.AssetObservation("observed")
    yield dg.Output(1, "first", metadata={"rows": 1})
    yield dg.Output(2, "second")


@dg.graph
def saying_all() -> None:
    first, second = say_all()
    note_all([first, second])


class Bound:
    """As what async libraries make: of use only on the event loop that it was made on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def ask(self) -> str:
        assert asyncio.get_running_loop() is self.loop, "bound to another event loop"
        await asyncio.sleep(0)
        return "answer"


@dg.resource
def bound_resource(context: dg.InitResourceContext) -> Iterator[Bound]:
    assert context.event_loop is not None
    bound = Bound(context.event_loop)
    probe.note(f"up: {bound.loop.run_until_complete(bound.ask())}")
    yield bound
    probe.note(f"down: {bound.loop.run_until_complete(bound.ask())}")


@dg.op(required_resource_keys={"bound"})
async def ask_bound(context: dg.OpExecutionContext) -> str:
    return await context.resources.bound.ask()


@dg.op(out={"first": dg.Out(str), "second": dg.Out(str)}, required_resource_keys={"bound"})
async def ask_twice(context: dg.OpExecutionContext):  # type: ignore[no-untyped-def]  # Dagster takes no other
    yield dg.Output(await context.resources.bound.ask(), "first")
    yield dg.Output(await context.resources.bound.ask(), "second")


@dg.op
async def fail_async() -> None:
    await asyncio.sleep(0)
    raise ValueError("async boom")


@dg.graph
def asynchronous() -> None:
    note_all([ask_bound(), *ask_twice()])
    fail_async()


# Resources.


@dg.resource
def noted_resource(_: dg.InitResourceContext) -> Iterator[str]:
    probe.note("up")
    yield "resource"
    probe.note("down")


@dg.resource
def broken_resource(_: dg.InitResourceContext) -> None:
    raise ValueError("no resource today")


@dg.op(required_resource_keys={"used"})
def use(context: dg.OpExecutionContext) -> None:
    probe.note(f"used {context.resources.used}")


@dg.graph
def using_a_resource() -> None:
    use()
    fail()


@dg.graph
def using_a_broken_resource() -> None:
    use()


# Assets.


@dg.asset(partitions_def=PARTS)
def joined(context: dg.AssetExecutionContext, split_left: int) -> dg.MaterializeResult[int]:
    probe.note(f"joined {split_left} of {context.partition_key}")
    return dg.MaterializeResult(value=split_left, metadata={"rows": split_left})


@dg.multi_asset(
    outs={name: dg.AssetOut(dagster_type=int, is_required=False) for name in ("split_left", "split_right")},
    can_subset=True,
    partitions_def=PARTS,
    check_specs=[dg.AssetCheckSpec("positive", asset="split_left")],
)
def split(context: dg.AssetExecutionContext) -> Iterator[Any]:
    for key in sorted(context.op_execution_context.selected_output_names):
        if not key.endswith("positive"):
            yield dg.Output(3, key)
    yield dg.AssetCheckResult(passed=True, asset_key="split_left", check_name="positive")


@dg.asset(partitions_def=PARTS, deps=["split_right"])
def failing_asset() -> None:
    raise ValueError("no asset today")


GRAPHS = {
    graph.name: graph
    for graph in (
        *(linear, fan_in, in_order_without_values, nested, fanned_out, fanned_out_with_a_failure, chosen, failing),
        *(failing_in_words, wrong_type, missing_output, asking_again, asking_in_vain, retried_by_policy, hooked),
        *(saying_all, asynchronous, using_a_resource, using_a_broken_resource),
    )
}
RESOURCES = {
    "asynchronous": {"bound": bound_resource},
    "using_a_resource": {"used": noted_resource},
    "using_a_broken_resource": {"used": broken_resource},
}


def define(name: str, executor: str, folder: str | None = None) -> dg.JobDefinition:
    """Make the job of a graph, or that of the assets, for an executor; values are kept in memory, or in a folder."""
    io_manager = {"io_manager": dg.FilesystemIOManager(base_dir=folder) if folder else dg.mem_io_manager}
    if name == "assets":
        job = dg.define_asset_job("assets", selection="*", executor_def=EXECUTORS[executor])
        assets = [split, joined, failing_asset]
        return dg.Definitions(assets=assets, jobs=[job], resources=io_manager).resolve_job_def("assets")
    resources: dict[str, Any] = io_manager | RESOURCES.get(name, {})
    return GRAPHS[name].to_job(executor_def=EXECUTORS[executor], resource_defs=resources)
