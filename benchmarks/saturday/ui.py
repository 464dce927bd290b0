"""The web UI: the pages of races, and those of Dagster's own that grow with partitions and runs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.saturday.costs import PAGE_TARGET_MS, Figure, choose_races
from benchmarks.saturday.scene import Scene
from raceday_dagster.defs.partitions import RACES, register_races
from raceday_dagster.service.parts import answers_http
from raceday_dagster.store.queries import read_race_keys
from raceday_dagster_tests.integration.commands import find_free_port
from raceday_dagster_tests.waiting import wait_for

TIMES = 9
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "raceday_dagster"}
# What the pages ask, from the UI's own bundle, without the fragments that name single runs or backfills.
JOB_PARTITIONS = """
query JobPartitions($repositorySelector: RepositorySelector!, $partitionSetName: String!) {
  partitionSetOrError(repositorySelector: $repositorySelector, partitionSetName: $partitionSetName) {
    ... on PartitionSet {
      id name pipelineName
      partitionsOrError { ... on Partitions { results { name } } }
      partitionStatusesOrError {
        ... on PartitionStatuses { results { id partitionName runStatus runDuration } }
      }
    }
    ... on PartitionSetNotFoundError { message }
  }
}
"""
ASSET_PARTITIONS = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { materializedPartitions materializingPartitions failedPartitions }
      }
    }
  }
}
"""
RUNS = """
query RunsFeedRootQuery($limit: Int!, $view: RunsFeedView!) {
  runsFeedOrError(limit: $limit, view: $view) {
    ... on RunsFeedConnection {
      cursor hasMore
      results {
        id runStatus creationTime startTime endTime jobName
        tags { key value }
        ... on Run { pipelineName hasReExecutePermission }
      }
    }
  }
}
"""
JOB = {"repositorySelector": REPOSITORY, "partitionSetName": "process_race_partition_set"}
ASSET = {"assetKey": {"path": ["settled_races"]}}


def register_all(scene: Scene) -> Figure:
    """Makes a partition of each stored race, as the loads of their days do."""
    race_ids = [race_id for (race_id,) in scene.ask("SELECT race_id FROM races")]
    with scene.engine.connect() as connection:
        keys = read_race_keys(connection, race_ids)
    began_s = time.monotonic()
    added = register_races(scene.instance, keys.values())
    total = len(scene.instance.get_dynamic_partitions(RACES))
    return Figure("partitions registered", f"{total:,}; the last {added:,} in {time.monotonic() - began_s:.1f} s")


@contextmanager
def serving(scene: Scene) -> Iterator[tuple[int, psutil.Process]]:
    """The web server on the databases of a scene: its port and its process."""
    port = find_free_port()
    workspace = Path(__file__).parents[2] / "workspace.yaml"
    command = (sys.executable, "-m", "raceday_dagster.web.server", "-w", str(workspace), "-p", str(port))
    log = scene.home / "web.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=scene.sandbox.environment, stdout=output, stderr=output)
    try:
        wait_for(lambda: answers_http("127.0.0.1", port) or process.poll() is not None, explain=log.read_text)
        if process.poll() is not None:
            raise RuntimeError(f"the web server did not start: {log.read_text()}")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def pages(scene: Scene) -> Iterator[Figure]:
    """The pages of races, Dagster's pages, and the server's memory before and after them."""
    (race_id,) = choose_races(scene, 1)
    addresses = {
        "page of today": "/races",
        "page of a race": f"/races/{race_id}",
        "today as JSON": "/races/api/races",
        "a race as JSON": f"/races/api/races/{race_id}",
        "its runners and their history as JSON": f"/races/api/races/{race_id}/entrants",
    }
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "UI: partitions of `process_race`": (JOB_PARTITIONS, JOB),
        "UI: partitions of `settled_races`": (ASSET_PARTITIONS, ASSET),
        "UI: newest 30 runs": (RUNS, {"limit": 30, "view": "RUNS"}),
    }
    with serving(scene) as (port, process):
        began_mb = process.memory_info().rss / 2**20
        for name, address in addresses.items():
            yield _measure(scene, process, name, partial(_get, port, address), PAGE_TARGET_MS)
        for name, (query, variables) in questions.items():
            yield _measure(scene, process, name, partial(_ask, port, query, variables), None)
        told = f"{began_mb:.0f} MB before, {process.memory_info().rss / 2**20:.0f} after"
    yield Figure("memory of the web server", told)


def _measure(
    scene: Scene, server: psutil.Process, name: str, fetch: Callable[[], int], target_ms: int | None
) -> Figure:
    sizes: list[int] = []
    taken = scene.time(lambda: sizes.append(fetch()), TIMES, server)
    is_kept = None if target_ms is None else taken.median_ms < target_ms
    return Figure(f"{name}, ms", f"{taken}; {sizes[-1] / 1000:.0f} kB", is_kept, f"{target_ms} ms" if target_ms else "")


def _get(port: int, address: str) -> int:
    return len(_request(port, "GET", address))


def _ask(port: int, query: str, variables: dict[str, Any]) -> int:
    answer = _request(port, "POST", "/graphql", json.dumps({"query": query, "variables": variables}))
    read: dict[str, Any] = json.loads(answer)
    (content,) = read["data"].values()
    if "errors" in read or "message" in content:
        raise RuntimeError(f"the UI refused: {answer[:300]!r}")
    return len(answer)


def _request(port: int, method: str, address: str, body: str | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, address, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{address} was answered {response.status}: {answer[:300]!r}")
    return answer
