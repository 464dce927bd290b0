"""An instance of Dagster on each storage that has to keep the same promises, empty before each test.

`stock` is Dagster's own storage and proves the tests right; `pooled` is ours; `buffered` is ours as a run uses it, with
a thread that writes the events.
"""

import itertools
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EventSpecificData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.utils import make_new_run_id

from raceday_dagster.sandbox.postgres import EmbeddedPostgres
from raceday_dagster_tests.integration.defs.maintenance_fixture import DAGSTER_YAML
from raceday_dagster_tests.integration.postgres_fixture import make_database

STOCK_YAML = """
storage:
  postgres:
    postgres_url: {env: DAGSTER_PG_URL}
telemetry: {enabled: false}
"""
KINDS = ("stock", "pooled", "buffered")
REPOSITORY = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("location"), "repository")
Kind = dg.DagsterEventType

_times = itertools.count(1_700_000_000.0)  # before now: what is wiped now has been said before


@pytest.fixture(scope="module")
def opened_instance(
    request: pytest.FixtureRequest, embedded_postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    """One of `KINDS`, which the test module names."""
    home = tmp_path_factory.mktemp(request.param)
    (home / "dagster.yaml").write_text(STOCK_YAML if request.param == "stock" else DAGSTER_YAML)
    with make_database(embedded_postgres) as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_PG_URL", url)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            log: Any = instance.event_log_storage
            with log.buffered() if request.param == "buffered" else nullcontext():
                yield instance


@pytest.fixture
def instance(opened_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    for storage in (
        opened_instance.run_storage,
        opened_instance.event_log_storage,
        opened_instance.schedule_storage,
    ):
        assert storage is not None
        storage.wipe()
    return opened_instance


def add_run(instance: dg.DagsterInstance, job_name: str = "job", **given: Any) -> dg.DagsterRun:
    return instance.run_storage.add_run(dg.DagsterRun(job_name=job_name, run_id=make_new_run_id(), **given))


def say(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun | str,
    kind: Kind | None = None,
    data: EventSpecificData | None = None,
    *,
    step: str | None = None,
    at_s: float | None = None,
    message: str = "",
) -> float:
    """Store an event as a run does; return its time, a second later than the event before it unless `at_s` is given."""
    at_s = next(_times) if at_s is None else at_s
    instance.handle_new_event(entry(run, kind, data, step=step, at_s=at_s, message=message))
    return at_s


def entry(
    run: dg.DagsterRun | str,
    kind: Kind | None = None,
    data: EventSpecificData | None = None,
    *,
    step: str | None = None,
    at_s: float = 0.0,
    message: str = "",
) -> dg.EventLogEntry:
    event = kind and dg.DagsterEvent(kind.value, "job", step_key=step, event_specific_data=data)
    return dg.EventLogEntry(
        error_info=None,
        level=logging.INFO,
        user_message=message,
        run_id=run if isinstance(run, str) else run.run_id,
        timestamp=at_s,
        step_key=step,
        job_name="job",
        dagster_event=event or None,
    )
