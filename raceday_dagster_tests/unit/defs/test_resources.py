"""What the UI shows of the resources, and when they read the environment."""

import importlib.util

import dagster as dg
import pytest

from raceday_dagster.defs.ops.race import FETCH_OUTCOME, TRANSFORM_OUTCOME
from raceday_dagster.defs.resources import RESOURCES, RacingApiResource, SettingsResource, TransformWorkersResource
from raceday_dagster.settings import Settings
from raceday_dagster_tests.unit.racing.test_outcomes import end_race

SECRETS = ("database_url", "dagster_pg_url", "nztab_from_email", "nztab_partner_name", "nztab_partner_id")


def test_every_field_of_a_resource_is_a_setting_and_no_secret() -> None:
    fields = {
        name: field
        for resource in RESOURCES.values()
        if isinstance(resource, dg.ConfigurableResource)
        for name, field in type(resource).model_fields.items()
    }
    assert {"nztab_api_url", "db_pool_max", "transform_workers", "race_deadline_s"} <= set(fields)
    assert set(fields) <= set(Settings.model_fields) - set(SECRETS)
    for name, field in fields.items():
        assert name.upper() in (field.description or ""), "the description names the variable"


def test_a_field_comes_before_its_variable_and_the_variable_before_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACE_DEADLINE_S", "7")
    monkeypatch.setenv("RACE_COUNTRIES", "NZ")
    given = SettingsResource(race_countries="AUS,HK")
    with dg.build_resources({"settings": given}) as resources:
        assert resources.settings.race_countries == ("AUS", "HK")
        assert resources.settings.race_deadline_s == 7
        assert resources.settings.race_categories == ("T", "H")


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (SettingsResource(race_deadline_s=0), "RACE_DEADLINE_S is wrong: "),
        (TransformWorkersResource(transform_workers=-1), "TRANSFORM_WORKERS is wrong: "),
        (RacingApiResource(), "NZTAB_FROM_EMAIL is not set: "),
    ],
)
def test_a_resource_that_cannot_be_had_is_refused_in_one_line(
    resource: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NZTAB_FROM_EMAIL", raising=False)
    with pytest.raises(dg.DagsterError) as refusal, dg.build_resources({"it": resource}):
        pass
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_run_without_the_extra_images_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openai" else find(name))
    given = {"settings": SettingsResource(), "race_store": object(), "image_stages": RESOURCES["image_stages"]}
    with pytest.raises(dg.DagsterError) as refusal, dg.build_resources(given):
        pass
    assert str(refusal.value) == ("describing images needs the extra `images`: pip install 'raceday-dagster[images]'")


def test_transform_workers_that_are_never_used_are_never_started(capsys: pytest.CaptureFixture[str]) -> None:
    with dg.build_resources({"workers": TransformWorkersResource(transform_workers=2)}):
        pass
    assert capsys.readouterr().err == ""


def test_an_outcome_of_a_stage_is_its_race_or_one_that_has_ended() -> None:
    for outcome in (FETCH_OUTCOME, TRANSFORM_OUTCOME):
        assert dg.check_dagster_type(outcome, end_race("a", "failed")).success
        assert not dg.check_dagster_type(outcome, "a race").success
