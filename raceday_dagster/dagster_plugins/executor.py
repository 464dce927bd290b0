"""A Dagster executor that runs the steps of a run at once, in threads of one process.

Dagster has one step at a time in a process, or a process for each step. Steps that wait on the network want neither:
here they share resources and in-memory values. Belongs here: how steps start, are watched and stop. One thread, which
iterates `execute`, owns the state machine (`ActiveExecution`) and the plan. A step's own thread iterates its events,
which Dagster stores in the thread that builds them (a storage with `buffered()` gathers them), and hands them on.

What differs from the stock executors:
* A thread cannot be killed. After an interrupt no step starts, those that run get `interrupt_grace_s`, then they are
  marked as failed, left behind and end with the process; a second interrupt ends the wait. What such a step still says
  is not stored. Give every call in a step a time-out.
* A process has one stdout: compute logs are one file a run. `context.log` and Dagster's Python loggers know the step,
  but a Python log line of a thread that a step starts is filed under any step that runs.
* Async steps run at once on the event loop of the run, the one that resources know as `InitResourceContext.event_loop`:
  one that blocks instead of awaiting holds up the others. The thread of a step has no event loop of its own.
* Dagster's own beta and deprecation warnings are silent inside steps (why: `_Threads`).
"""

# mypy: allow-untyped-calls

import contextvars
import gc
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import dagster as dg  # what follows is private, half of it without types: test_executor_contract.py watches it
from dagster import DagsterEvent
from dagster._core.definitions.scoped_resources_builder import Resources, ScopedResourcesBuilder
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterUnmetExecutorRequirementsError
from dagster._core.events import EngineEventData
from dagster._core.execution import step_dependency_config as dependencies
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context import system
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.log_manager import DagsterLogHandler, get_log_record_event, has_log_record_event
from dagster._utils.interrupts import pop_captured_interrupt
from dagster._utils.warnings import disable_dagster_warnings
from dagster_shared.error import SerializableErrorInfo

from raceday_dagster.dagster_plugins.run_event_loop import RunEventLoop

COLLECT_EVERY = 50_000  # new objects, in place of 700: a batch makes 12,000, and looking through them takes 4 % of it
POLL_S = 0.25  # a signal sets a flag in the main thread and wakes nobody: look this often
THREAD_NAME = "step "
_STOCK_DEPENDENCIES = dependencies.StepDependencyConfig.default()
_KIND = dg.DagsterEventType
_step_key: contextvars.ContextVar[str | None] = contextvars.ContextVar("step of the executor", default=None)
_ENDS = (_KIND.STEP_SUCCESS, _KIND.STEP_FAILURE, _KIND.STEP_UP_FOR_RETRY)
Events = Iterator[DagsterEvent]


@dataclass(frozen=True, kw_only=True)
class ThreadedExecutor(dg.Executor):
    """Runs up to `max_concurrent` steps at once. Raises `DagsterUnmetExecutorRequirementsError` if that is below 1."""

    max_concurrent: int
    retries: RetryMode = RetryMode.ENABLED
    tag_concurrency_limits: list[dict[str, Any]] | None = None
    step_dependency_config: dependencies.StepDependencyConfig = _STOCK_DEPENDENCIES
    interrupt_grace_s: float = 8.0

    def __post_init__(self) -> None:
        if self.max_concurrent < 1:
            raise DagsterUnmetExecutorRequirementsError(f"max_concurrent must be 1 or more, not {self.max_concurrent}.")

    def execute(self, plan_context: system.PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Events:
        """Yield the events of the run; those of one step stay in order."""
        data = EngineEventData.in_process(os.getpid(), execution_plan.step_keys_to_execute)
        yield DagsterEvent.engine_event(plan_context, f"Executing steps in up to {self.max_concurrent} threads", data)
        yield from ExecuteRunWithPlanIterable(
            execution_plan=plan_context.execution_plan,
            iterator=self._run_steps,
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                execution_plan=plan_context.execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                retry_mode=plan_context.retry_mode,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self.step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(plan_context, "Finished steps in threads", data)

    def _run_steps(self, job_context: system.PlanExecutionContext, execution_plan: ExecutionPlan) -> Events:
        with ExitStack() as stack:  # last in, first out: threads end before anything that steps use is closed
            stack.callback(gc.set_threshold, *gc.get_threshold())
            gc.set_threshold(COLLECT_EVERY)
            buffered: Any = getattr(job_context.instance.event_log_storage, "buffered", nullcontext)
            left_out: Set[str] = stack.enter_context(buffered()) or frozenset()
            execution = job_context._execution_data
            shared = _SharedResources(*execution.scoped_resources_builder)
            job_context._execution_data = execution._replace(scoped_resources_builder=shared)
            pools = stack.enter_context(InstanceConcurrencyContext(job_context.instance, job_context.dagster_run))
            active = execution_plan.start(
                retry_mode=job_context.retry_mode,
                tag_concurrency_limits=self.tag_concurrency_limits,
                instance_concurrency_context=pools,
                step_dependency_config=self.step_dependency_config,
            )
            stack.enter_context(active)
            logs, capture = job_context.instance.compute_log_manager, ExitStack()
            key = logs.build_log_key_for_run(job_context.run_id, create_compute_log_file_key())
            stack.callback(_attempt, job_context, "cleaning up", capture.close)
            where = _attempt(job_context, "setting up", lambda: capture.enter_context(logs.capture_logs(key)))
            if where is not None:
                yield DagsterEvent.capture_logs(job_context, execution_plan.step_keys_to_execute, key, where)
            loop = stack.enter_context(closing(RunEventLoop(job_context.event_loop)))
            job_context._event_loop = loop  # type: ignore[assignment]  # steps call no more of it than this has
            threads = stack.enter_context(closing(_Threads()))
            yield from _Schedule(self, job_context, active, pools, threads, left_out).events()


def build_threaded_executor(
    *, name: str = "threaded", default_max_concurrent: int = 5, ceiling: Callable[[int], int] | None = None
) -> dg.ExecutorDefinition:
    """Build an executor definition. `ceiling` is given the `max_concurrent` asked for and returns the one to use."""
    config_schema = {
        "max_concurrent": dg.Field(int, default_max_concurrent, description="Steps that may run at once, 1 or more."),
        "interrupt_grace_s": dg.Field(float, 8.0, description="Seconds that steps get to end after an interrupt."),
        "retries": get_retries_config(),
        "tag_concurrency_limits": get_tag_concurrency_limits_config(),
        "step_dependency_config": dependencies.get_step_dependency_config_field(),
    }

    @dg.executor(name=name, config_schema=config_schema)
    def build(init_context: dg.InitExecutorContext) -> ThreadedExecutor:
        """Run the steps of a run at once, in threads of one process."""
        config: dict[str, Any] = dict(init_context.executor_config)
        requested = config["max_concurrent"]
        return ThreadedExecutor(
            max_concurrent=ceiling(requested) if ceiling and requested >= 1 else requested,
            retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
            tag_concurrency_limits=config.get("tag_concurrency_limits"),
            step_dependency_config=dependencies.StepDependencyConfig.from_config(config.get("step_dependency_config")),
            interrupt_grace_s=config["interrupt_grace_s"],
        )

    return build


threaded_executor = build_threaded_executor()


@dataclass(eq=False)
class _Task:
    """What a thread does: one attempt of a step, or the hooks that follow it."""

    key: str
    context: system.StepExecutionContext
    work: Events
    is_hooks: bool = False
    events: list[DagsterEvent] = field(default_factory=list)


# What a thread hands over: an event of its task; without an event, that it has left the task, with what made it leave.
_Report = tuple[_Task, DagsterEvent | None, BaseException | None]


@dataclass
class _Schedule:
    """Starts steps, takes in what threads report, notices interrupts: all in the thread that owns the run."""

    settings: ThreadedExecutor
    job: system.PlanExecutionContext
    active: ActiveExecution
    pools: InstanceConcurrencyContext
    threads: "_Threads"
    left_out: Set[str]
    untold: list[DagsterEvent] = field(default_factory=list)
    is_winding_down: bool = False

    def events(self) -> Events:
        """Run the plan to its end. Mapped steps join it late: it is only at its end when no thread has a task."""
        yield from self.active.plan_events_iterator(self.job)
        while self.threads.running or not self.active.is_complete:
            if pop_captured_interrupt():
                self.active.mark_interrupted()
                why = f"Interrupted: no more steps start, others have {self.settings.interrupt_grace_s:g} s to end."
                give_up_at_s = time.monotonic() + self.settings.interrupt_grace_s
                yield from self._wind_down(DagsterExecutionInterruptedError(), why, give_up_at_s)
            waits_for_retry = self.active.sleep_interval() != 0
            yield from self._start_steps()
            yield from self._tell()
            if not (self.threads.running or waits_for_retry or self.pools.has_pending_claims()):
                return  # nothing can ever start, as with a tag limit of 0: ActiveExecution says so as it closes
            yield from self._take_reports()
        yield from self._tell()

    def _tell(self) -> Events:
        """Yield what steps said: after the next ones have begun, for Dagster works on each event for 0.3 ms."""
        told, self.untold = self.untold, []
        yield from told

    def _start_steps(self) -> Events:
        free = self.settings.max_concurrent - len(self.threads.running)
        if free <= 0:
            return  # the question goes through every step of the plan, and a step says several things while it runs
        steps = self.active.get_steps_to_execute(limit=free)
        yield from self.active.concurrency_event_iterator(self.job)
        for step in steps:
            known = self.active.get_known_state()  # its set of outputs goes on changing: copied
            context = self.job.for_step(step, known._replace(ready_outputs=set(known.ready_outputs)))
            handler = context.log._dagster_handler
            handler.__class__ = _StepLogHandler
            assert isinstance(handler, _StepLogHandler)
            handler.left_out = self.left_out
            told = (
                event
                for event in dagster_event_sequence_for_step(context)
                if event.event_type_value not in self.left_out  # the state machine learns nothing from them
            )
            self.threads.start(_Task(step.key, context, told))

    def _take_reports(self) -> Events:
        """Wait for a report; take it and what else is there, up to the end of a task: a place to fill at once."""
        retry_in_s = self.active.sleep_interval()
        report = self.threads.next_report(retry_in_s if 0 < retry_in_s < POLL_S else POLL_S)
        while report:
            task, event, error = report
            if event is None:
                yield from self._end_task(task, error)
                return
            task.events.append(event)
            self.untold.append(event)
            if not (task.is_hooks or event.is_step_up_for_retry):  # a retry waits until its thread is out of the step
                self.active.handle_event(event)
            report = self.threads.next_report(0)

    def _end_task(self, task: _Task, error: BaseException | None) -> Events:
        if error is not None:
            yield from self._wind_down(error, f"{type(error).__name__} left step {task.key}: the run ends.")
        elif not task.is_hooks:
            if task.events and task.events[-1].is_step_up_for_retry:
                self.active.handle_event(task.events[-1])
            self.active.verify_complete(self.job, task.key)
            self.pools._pending_timeouts.clear()  # a place in an op pool may be free: look now, not in a second or more
            yield from self.active.plan_events_iterator(self.job)
            if self.job.job_def.get_all_hooks_for_handle(task.context.node_handle):
                hooks = _trigger_hook(task.context, task.events)
                self.threads.start(_Task(task.key, task.context, hooks, is_hooks=True))

    def _wind_down(self, cause: BaseException, why: str, give_up_at_s: float = math.inf) -> Events:
        """Take in what still runs, then raise `cause`; of several causes, the first."""
        if self.is_winding_down:
            return
        self.is_winding_down = True
        yield self._engine_event(why)
        while self.threads.running and time.monotonic() < give_up_at_s and not pop_captured_interrupt():
            yield from self._take_reports()
        yield from self._tell()
        if self.threads.running:
            yield self._engine_event("Left behind: steps that run until this process ends.")
            yield from self.threads.leave_behind()
        raise cause

    def _engine_event(self, message: str) -> DagsterEvent:
        keys = sorted(task.key for task in self.threads.running)
        message = f"{message} Running: {', '.join(keys) or 'none'}"
        return DagsterEvent.engine_event(self.job, message, EngineEventData.interrupted(keys))


class _Threads:
    """A daemon thread for each task: a step that never ends must not keep the process.

    Dagster's warnings are off in them: `disable_dagster_warnings`, called for each output, then does nothing, where
    it would swap the process's warning filters from many threads at once and leave the wrong ones behind.
    """

    def __init__(self) -> None:
        self.running: dict[_Task, threading.Thread] = {}
        self._reports: queue.SimpleQueue[_Report] = queue.SimpleQueue()
        with disable_dagster_warnings():
            self._context = contextvars.copy_context()

    def start(self, task: _Task) -> None:
        run, name = self._context.copy().run, THREAD_NAME + task.key
        self.running[task] = threading.Thread(target=run, args=(self._work, task), name=name, daemon=True)
        self.running[task].start()

    def next_report(self, timeout_s: float) -> _Report | None:
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if report[1] is None and (thread := self.running.pop(report[0], None)):
            thread.join()
        return report

    def close(self) -> None:
        """Let running steps end; an interrupt ends the wait."""
        while self.running and not pop_captured_interrupt():
            self.next_report(POLL_S)
        self.leave_behind()

    def leave_behind(self) -> list[DagsterEvent]:
        """Wait no longer, and store that the steps that still run have failed."""
        tasks = list(self.running)
        self.running.clear()
        return [event for task in tasks if not task.is_hooks and (event := _leave_behind(task.context))]

    def _work(self, task: _Task) -> None:
        error = None
        _step_key.set(task.key)
        try:
            for event in task.work:
                self._reports.put((task, event, None))
        except BaseException as caught:  # noqa: BLE001 - a thread has no caller: the scheduling thread raises it
            error = caught
        self._reports.put((task, None, error))


class _SharedResources(ScopedResourcesBuilder):
    """Builds what steps see of their resources once for each set of names. Dagster makes a class of its own each time
    it asks, seven times a step: a twentieth of a batch."""

    def __init__(self, *_: Any) -> None:
        self._built: dict[Set[str], Resources] = {}

    def build(self, required_resource_keys: Set[str] | None) -> Resources:
        keys = frozenset(required_resource_keys or ())
        if keys not in self._built:
            self._built[keys] = super().build(keys)
        return self._built[keys]


class _StepLogHandler(DagsterLogHandler):
    """A step's log handler. Dagster hangs it on Python loggers too: there it is deaf to what other steps say.

    All that is stored of a step passes here, one record at a time, so that a step has one end.
    """

    has_end = False
    is_left_behind = False
    left_out: Set[str] = frozenset()

    def filter(self, record: logging.LogRecord) -> bool:
        if has_log_record_event(record) and get_log_record_event(record).event_type_value in self.left_out:
            return False
        return _step_key.get() in (None, self.metadata["step_key"]) and super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_left_behind:
            return
        if has_log_record_event(record):
            self.has_end |= get_log_record_event(record).event_type in _ENDS
        super().emit(record)


def _leave_behind(context: system.StepExecutionContext) -> DagsterEvent | None:
    """Store that a step failed, and nothing of it from then on; `None` if it has just ended by itself."""
    handler = context.log._dagster_handler
    assert isinstance(handler, _StepLogHandler)
    with handler.lock or nullcontext():  # the step may be storing something
        if handler.has_end:
            return None
        why = "The run was interrupted, and this step did not end: it is left behind."
        error = SerializableErrorInfo(why, stack=[], cls_name=DagsterExecutionInterruptedError.__name__)
        event = DagsterEvent.step_failure_event(context, StepFailureData(error, None, ErrorSource.INTERRUPT))
        handler.is_left_behind = True
        return event


def _attempt(job: system.PlanExecutionContext, what: str, plug_in: Callable[[], Any]) -> Any:
    """Call a plug-in whose failure is logged and does not cost the run."""
    try:
        return plug_in()
    except Exception:
        job.log.exception(f"Exception while {what} compute log capture")
        return None
