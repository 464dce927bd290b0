"""The same as JSON: every figure a number, every answer as the OpenAPI file describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.market.market_fixture import DAY, make_poll, write_polled_race
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.write_snapshots import HOLDS, make_results

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/races/api/openapi.json").json()
    return answer


def check(document: dict[str, Any], schema: dict[str, Any], value: Any, place: str) -> None:
    """Whether ``value`` is what ``schema`` says, with every property of it and none besides."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        check(document, document["components"]["schemas"][name], value, f"{place} ({name})")
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    wanted = tuple(kind for name in kinds for kind in TYPES[name])
    assert isinstance(value, wanted), f"{place} is {value!r}"
    if schema.get("format") == "date-time" and value is not None:
        assert datetime.fromisoformat(value).utcoffset() is not None, place
    if isinstance(value, dict):
        named = schema["properties"]
        assert named.keys() <= value.keys(), f"{place} lacks {named.keys() - value.keys()}"
        assert schema.get("additionalProperties") or value.keys() <= named.keys(), f"{place}: {value.keys()}"
        for name, each in named.items():
            check(document, each, value[name], f"{place}.{name}")
    if isinstance(value, list):
        for each in value:
            check(document, schema["items"], each, f"{place}[]")


@pytest.mark.parametrize("race_id", ["race-1", "race/2"])
def test_every_answer_is_as_the_document_says(
    store: RaceStore, client: TestClient, document: dict[str, Any], race_id: str
) -> None:
    write_polled_race(store, race_id)
    write(store, make_poll(race_id, 0, race={"status": "final"}, results=make_results("final")), run_id="over")
    asked = []
    for path, methods in document["paths"].items():
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        address = path.replace("{race_id}", race_id.replace("/", "%2F"))
        answer = client.get(address, params={} if "{race_id}" in path else {"day": str(DAY)})
        assert answer.status_code == 200, answer.text
        check(document, schema, answer.json(), address)
        asked.append(address)
    assert len(asked) == 5


def test_a_runner_comes_with_its_histories(store: RaceStore, client: TestClient, database_url: str) -> None:
    write_polled_race(store)
    answer = client.get("/races/api/races/race-1/entrants").json()
    assert [entrant["runner_number"] for entrant in answer["entrants"]] == sorted(HOLDS)
    second = answer["entrants"][1]
    assert [row["hold_percentage"] for row in second["shares"]] == [13, 13, 19]
    assert [row["odds"] for row in second["prices"]] == [9, 8, 6]
    with observe(database_url) as run:
        rows = run(
            "SELECT win_money FROM money_flow_timeline WHERE entrant_id = %(entrant)s ORDER BY time_interval DESC",
            {"entrant": second["entrant_id"]},
        )
    assert [row["win_money"] for row in second["money"]] == [cents for (cents,) in rows]


def test_what_is_not_there_is_said_in_json(client: TestClient) -> None:
    for path in ("/races/api/races/nothing", "/races/api/races/nothing/entrants", "/races/api/races?day=tomorrow"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]
