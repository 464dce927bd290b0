"""The private parts of Dagster that `executor` and `storage` stand on, one by one.

When a line here fails after an upgrade, Dagster has changed that part: read the stock `in_process.py` and
`execute_plan.py` of the new version, see what they now do in its place, do the same in `executor.py`, then mend the
line.
"""

import inspect
import typing
from collections.abc import Callable

import dagster as dg
import pytest
from dagster._core.definitions.scoped_resources_builder import ScopedResourcesBuilder
from dagster._core.errors import DagsterError, DagsterExecutionInterruptedError, DagsterUnmetExecutorRequirementsError
from dagster._core.events import EngineEventData, log_step_event
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import ExecutionData, PlanExecutionContext, StepExecutionContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.compute import gen_from_async_gen
from dagster._core.execution.plan.execute_plan import (
    _trigger_hook,
    dagster_event_sequence_for_step,
    inner_plan_execution_iterator,
)
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import (
    StepDependencyConfig,
    get_step_dependency_config_field,
)
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.log_manager import DagsterLogHandler, DagsterLogManager
from dagster._core.storage.compute_log_manager import ComputeLogManager
from dagster._utils import interrupts
from dagster._utils.warnings import disable_dagster_warnings
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_shared.error import SerializableErrorInfo

from raceday_dagster.dagster_plugins.executor import _SharedResources

ADVICE = "Dagster changed a part that executor.py or storage.py stands on: see the docstring of this test."

CALLED_WITH: list[tuple[Callable[..., object], set[str]]] = [
    (ExecuteRunWithPlanIterable, {"execution_plan", "iterator", "execution_context_manager"}),
    (
        PlanExecutionContextManager,
        {"job", "execution_plan", "run_config", "dagster_run", "instance", "retry_mode"}
        | {"raise_on_error", "output_capture", "step_dependency_config"},
    ),
    (
        ExecutionPlan.start,
        {"retry_mode", "tag_concurrency_limits", "instance_concurrency_context", "step_dependency_config"},
    ),
    (InstanceConcurrencyContext, {"instance", "dagster_run"}),
    (ActiveExecution.get_steps_to_execute, {"limit"}),
    (ActiveExecution.concurrency_event_iterator, {"plan_context"}),
    (ActiveExecution.plan_events_iterator, {"job_context"}),
    (ActiveExecution.handle_event, {"dagster_event"}),
    (ActiveExecution.verify_complete, {"job_context", "step_key"}),
    (ActiveExecution.mark_interrupted, set()),
    (ActiveExecution.sleep_interval, set()),
    (ActiveExecution.get_known_state, set()),
    (PlanExecutionContext.for_step, {"step", "known_state"}),
    (ScopedResourcesBuilder, {"resource_instance_dict", "contains_generator"}),
    (ScopedResourcesBuilder.build, {"required_resource_keys"}),
    (dagster_event_sequence_for_step, {"step_context"}),
    (_trigger_hook, {"step_context", "step_event_list"}),
    (SerializableErrorInfo, {"message", "stack", "cls_name"}),
    (StepFailureData, {"error", "user_failure_data", "error_source"}),
    (dg.DagsterEvent.step_failure_event, {"step_context", "step_failure_data"}),
    (EngineEventData.in_process, {"pid", "step_keys_to_execute"}),
    (EngineEventData.interrupted, {"steps_interrupted"}),
    (dg.DagsterEvent.engine_event, {"plan_context", "message", "event_specific_data"}),
    (dg.DagsterEvent.capture_logs, {"job_context", "step_keys", "log_key", "log_context"}),
    (ComputeLogManager.build_log_key_for_run, {"run_id", "step_key"}),
    (ComputeLogManager.capture_logs, {"log_key"}),
    (dg.JobDefinition.get_all_hooks_for_handle, {"handle"}),
    (StepDependencyConfig.from_config, {"config_value"}),
    (RetryMode.from_config, {"config_value"}),
    (PostgresRunStorage, {"postgres_url", "should_autocreate_tables"}),
    (PostgresEventLogStorage, {"postgres_url", "should_autocreate_tables"}),
    (PostgresScheduleStorage, {"postgres_url", "should_autocreate_tables"}),
    (DagsterPostgresStorage.from_config_value, {"inst_data", "config_value"}),
    (PostgresRunStorage.optimize_for_webserver, {"statement_timeout", "pool_recycle", "max_overflow"}),
    (PostgresRunStorage.dispose, set()),
    (PostgresEventLogStorage.dispose, set()),
]


@pytest.mark.parametrize(("function", "names"), CALLED_WITH, ids=lambda value: getattr(value, "__qualname__", ""))
def test_what_is_called_still_takes_what_it_is_given(function: Callable[..., object], names: set[str]) -> None:
    parameters = inspect.signature(function).parameters
    assert names <= set(parameters), ADVICE
    required = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    assert required - {"self"} <= names, ADVICE


@pytest.mark.parametrize(
    ("function", "needle"),
    [
        (ExecuteRunWithPlanIterable.__iter__, "execution_plan=self.execution_plan"),
        (ExecuteRunWithPlanIterable.__iter__, "job_context=self.job_context"),
        (InstanceConcurrencyContext.claim, "time.time() > self._pending_timeouts[step_key]"),
        (PlanExecutionContext.event_loop.fget, "return self._event_loop"),
        (PlanExecutionContext.for_step, "event_loop=self.event_loop"),
        (gen_from_async_gen, "context.event_loop.run_until_complete("),
        (PlanExecutionContext.log.fget, "return self._log_manager"),
        (PlanExecutionContext.for_step, "execution_data=self._execution_data"),
        (StepExecutionContext.__init__, "execution_data.scoped_resources_builder.build("),
        (dg.DagsterEvent.from_step, "log_step_event(step_context, event, batch_metadata)"),
        (log_step_event, "step_context.log.log_dagster_event("),
        (DagsterLogManager.begin_python_log_capture, "logger.addHandler(self._dagster_handler)"),
        (disable_dagster_warnings, "if not _warnings_on.get():"),
        (interrupts.pop_captured_interrupt, '_received_interrupt["received"] = False'),
        (inner_plan_execution_iterator, "build_log_key_for_run(job_context.run_id, file_key)"),
        (PostgresEventLogStorage._connect, "create_pg_connection(self._engine)"),
        (PostgresRunStorage.connect, "create_pg_connection(self._engine)"),
        (PostgresScheduleStorage.connect, "create_pg_connection(self._engine)"),
    ],
)
def test_what_is_relied_on_inside_is_still_there(function: Callable[..., object], needle: str) -> None:
    assert needle in inspect.getsource(function), ADVICE


def test_the_state_a_step_is_given_can_be_copied() -> None:
    state = KnownExecutionState()
    assert state._replace(ready_outputs=set()).ready_outputs is not state.ready_outputs, ADVICE


def test_steps_that_name_the_same_resources_share_what_they_see_of_them_and_see_no_others() -> None:
    shared = _SharedResources(*ScopedResourcesBuilder({"store": "a store", "api": "an api"}))
    assert shared.build({"store"}) is shared.build({"store"})
    assert shared.build({"store"}).store == "a store"  # type: ignore[attr-defined]
    assert not hasattr(shared.build({"store"}), "api")
    assert shared.build({"store"}).original_resource_dict == {"store": "a store"}
    assert shared.build(None) is shared.build(set())


def test_the_rest_has_the_shape_that_is_used() -> None:
    assert "scoped_resources_builder" in ExecutionData._fields, ADVICE
    assert issubclass(StepExecutionContext, PlanExecutionContext), ADVICE
    assert issubclass(DagsterUnmetExecutorRequirementsError, DagsterError), ADVICE
    assert issubclass(DagsterExecutionInterruptedError, BaseException), ADVICE
    assert {"step_key"} <= set(typing.get_type_hints(DagsterLogHandler.metadata.fget)["return"].__annotations__), ADVICE
    assert callable(InstanceConcurrencyContext.has_pending_claims), ADVICE
    assert isinstance(ActiveExecution.is_complete, property), ADVICE
    assert isinstance(dg.DagsterEvent.is_step_up_for_retry, property), ADVICE
    assert isinstance(create_compute_log_file_key(), str), ADVICE
    for field in (get_retries_config(), get_tag_concurrency_limits_config(), get_step_dependency_config_field()):
        assert isinstance(field, dg.Field), ADVICE
    assert [mode.value for mode in RetryMode] == ["enabled", "disabled", "deferred"], ADVICE
