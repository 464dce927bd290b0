"""A web UI that runs, for the tests that ask it over HTTP or with a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

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
