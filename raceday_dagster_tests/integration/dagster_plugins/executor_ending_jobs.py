"""Jobs whose steps fail, skip, ask for another try, are interrupted or leave in ways that no step should."""

import os
import signal
from collections.abc import Iterator

import dagster as dg
from dagster._core.execution.retries import RetryMode

from raceday_dagster.dagster_plugins.executor import ThreadedExecutor, threaded_executor
from raceday_dagster_tests.integration.dagster_plugins.executor_jobs import add_up, fan_out
from raceday_dagster_tests.integration.dagster_plugins.executor_probe import IN_MEMORY, PATIENCE_S, probe

# Failures, skips, retries.


@dg.op
def fail_on_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is refused")
    return number


@dg.op
def follow(number: int) -> int:
    probe.note(f"follow {number}")
    return number


@dg.op
def stand_alone() -> None:
    probe.note("stand_alone")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def failing_item_job() -> None:
    add_up(fan_out().map(lambda item: follow(fail_on_three(item))).collect())
    stand_alone()


@dg.op(out={"left": dg.Out(int, is_required=False), "right": dg.Out(int, is_required=False)})
def choose_left() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "left")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def skipping_job() -> None:
    left, right = choose_left()
    follow.alias("follow_left")(left)
    follow.alias("after_right")(follow.alias("follow_right")(right))


@dg.op(config_schema={"waits_s": dg.Field(float, default_value=0.0), "fails": dg.Field(int, default_value=2)})
def ask_for_retries(context: dg.OpExecutionContext) -> int:
    probe.note(f"attempt {context.retry_number}")
    if context.retry_number < context.op_config["fails"]:
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=context.op_config["waits_s"] or None)
    return context.retry_number


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def retry_job() -> None:
    follow(ask_for_retries())


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1, delay=0.05))
def fail_once(context: dg.OpExecutionContext) -> None:
    probe.note(f"attempt {context.retry_number}")
    if context.retry_number == 0:
        raise ValueError("the first time")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY)
def retry_policy_job() -> None:
    fail_once()


@dg.executor(name="deferring")
def deferring_executor(_: dg.InitExecutorContext) -> ThreadedExecutor:
    return ThreadedExecutor(max_concurrent=2, retries=RetryMode.DEFERRED)


@dg.job(executor_def=deferring_executor, resource_defs=IN_MEMORY)
def deferred_retry_job() -> None:
    follow(ask_for_retries())


@dg.op
def seven() -> int:
    probe.note("seven")
    return 7


@dg.op
def fail_the_first_time(context: dg.OpExecutionContext, number: int) -> int:
    if context.run.parent_run_id is None:
        raise ValueError("only the first run fails")
    return number


@dg.job(executor_def=threaded_executor)
def refailing_job() -> None:
    """Keeps its outputs on disk, so a second run finds them."""
    follow(fail_the_first_time(seven()))


# Hooks.


@dg.success_hook
def note_success(context: dg.HookContext) -> None:
    probe.note(f"success hook of {context.op.name}")


@dg.failure_hook
def note_failure(context: dg.HookContext) -> None:
    probe.note(f"failure hook of {context.op.name}: {context.op_exception}")


@dg.success_hook
def broken_hook(_: dg.HookContext) -> None:
    raise ValueError("the hook itself")


@dg.op
def explode() -> None:
    raise ValueError("boom")


@dg.job(executor_def=threaded_executor, resource_defs=IN_MEMORY, hooks={note_success, note_failure})
def hooked_job() -> None:
    stand_alone.with_hooks({broken_hook})()
    explode()


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
