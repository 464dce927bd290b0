"""A DAGSTER_HOME that is not set up for the service is refused: runs would be where nobody looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raceday_dagster.errors import ServiceError
from raceday_dagster.sandbox.sandbox import find_instance_config
from raceday_dagster.service.dagster_instance import open_instance

OURS = yaml.safe_load(find_instance_config().read_text(encoding="utf-8"))


def open_with(home: Path, url: str) -> None:
    with open_instance({"DAGSTER_HOME": str(home), "DAGSTER_PG_URL": url}):
        pass


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", "")  # which opening an instance sets


def test_the_instance_of_the_service_is_taken(empty_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(OURS))
    open_with(tmp_path, empty_database_url)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"telemetry": {"enabled": False}},
        {name: value for name, value in OURS.items() if name != "run_coordinator"},
    ],
    ids=["empty", "on SQLite", "without the live lane"],
)
def test_another_instance_is_refused_in_one_line(
    config: dict[str, object] | None, empty_database_url: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ServiceError, match=r"^DAGSTER_HOME .* unset DAGSTER_HOME, or copy the dagster\.yaml .*$"):
        open_with(tmp_path, empty_database_url)


def test_an_instance_on_another_database_is_refused(empty_database_url: str, database_url: str, tmp_path: Path) -> None:
    storage = {"custom": {**OURS["storage"]["custom"], "config": {"postgres_url": empty_database_url}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({**OURS, "storage": storage}))
    with pytest.raises(ServiceError, match="storage on DAGSTER_PG_URL"):
        open_with(tmp_path, database_url)
