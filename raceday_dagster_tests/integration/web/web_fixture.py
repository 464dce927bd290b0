"""Dagster's web UI as a process of its own, for the tests that ask it over HTTP or with a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from raceday_dagster_tests.waiting import wait_for

STOP_S = 20.0
ANSWER_S = 30.0
LAUNCHED_BY = "launched_by"

LOCATION = "raceday_dagster"
"""What every workspace here calls its code location."""
READ_RUNS = """
query Runs($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId jobName status } } } }
"""
LAUNCH = """
mutation Launch($job: String!, $location: String!, $config: RunConfigData, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {
    selector: {jobName: $job, repositoryName: "__repository__", repositoryLocationName: $location},
    runConfigData: $config, executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on UnauthorizedError { message } }
}
"""


@dataclass(frozen=True)
class Web:
    """A web UI that answers, and how to talk to it without a browser."""

    url: str
    """Without a slash at the end."""

    def ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data that a GraphQL query or mutation answers, posted as a script does."""
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables or {}}, timeout=ANSWER_S
        )
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def read_runs(self, **run_filter: Any) -> list[dict[str, str]]:
        """The runs that pass a ``RunsFilter``: id, job and status of each, the newest first."""
        runs: list[dict[str, str]] = self.ask(READ_RUNS, {"filter": run_filter})["runsOrError"]["results"]
        return runs


def build_launch(job: str, launched_by: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The GraphQL request that launches a run of ``job``, tagged with who asks for it."""
    tags = [{"key": LAUNCHED_BY, "value": launched_by}]
    return {
        "query": LAUNCH,
        "variables": {"job": job, "location": LOCATION, "config": json.dumps(config or {}), "tags": tags},
    }


@contextmanager
def run_module(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m`` with ``arguments``, told to end at the end; what it prints goes to ``log``."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def run_code_server(module: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Dagster's own code server of what ``module`` (``-m name`` or ``-f file``) names, and its workspace file."""
    log, path, workspace = (folder / name for name in ("code-server.log", "code-server.sock", "workspace.yaml"))
    workspace.write_text(
        f"load_from:\n  - grpc_server:\n      socket: {path}\n      location_name: {LOCATION}\n",
        encoding="utf-8",
    )
    command = ("dagster", "api", "grpc", *module, "--socket", str(path), "--location-name", LOCATION)
    with run_module(command, environment, log) as process:
        wait_for(lambda: path.exists() or process.poll() is not None, explain=log.read_text)
        assert process.poll() is None, log.read_text()
        yield workspace


@contextmanager
def run_webserver(workspace: Path, environment: Mapping[str, str], log: Path, *arguments: str) -> Iterator[Web]:
    """Our web UI for ``workspace`` on any free port, once it has said where it is; it must end without a fuss."""
    command = ("raceday_dagster.web.server", "--workspace", str(workspace), "--port", "0", *arguments)
    with run_module(command, environment, log) as process:
        said = re.compile(r"http://\S+")
        wait_for(lambda: said.search(log.read_text()) or process.poll() is not None, explain=log.read_text)
        found = said.search(log.read_text())
        assert found, log.read_text()
        yield Web(found[0])
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()
