"""The manifests of docs/kubernetes, without a cluster: this project understands them, and they fit one another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from raceday_dagster.cli import main
from raceday_dagster.settings import Settings

MANIFESTS = Path(__file__).parents[2] / "docs" / "kubernetes" / "raceday.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFESTS.read_text(encoding="utf-8")))


def list_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def list_containers() -> Iterator[dict[str, Any]]:
    for deployment in list_kind("Deployment").values():
        yield from deployment["spec"]["template"]["spec"]["containers"]


def test_every_variable_is_one_that_this_project_reads() -> None:
    named = {entry["name"] for container in list_containers() for entry in container.get("env", ())}
    (secret,) = list_kind("Secret").values()
    assert named | secret["stringData"].keys() <= {name.upper() for name in Settings.model_fields}


def test_the_values_of_every_container_are_valid_settings() -> None:
    (secret,) = list_kind("Secret").values()
    for container in list_containers():
        if container["image"] == "raceday":
            own = {entry["name"]: entry["value"] for entry in container["env"]}
            settings = Settings.from_environment({**secret["stringData"], **own})
            assert settings.broker_url is not None


def test_every_command_is_one_of_ours_with_options_that_it_takes() -> None:
    commands = [container["command"] for container in list_containers() if "command" in container]
    assert [command[:2] for command in commands] == [["raceday", "up"], ["raceday", "worker"]]
    for _program, name, *arguments in commands:
        main.commands[name].make_context(name, list(arguments), parent=click.Context(main))


def test_the_ui_answers_to_the_name_of_its_service() -> None:
    (up,) = (each for each in list_containers() if each["name"] == "up")
    assert up["command"][up["command"].index("--allow-host") + 1] in list_kind("Service")


def test_every_selector_finds_its_pods_and_every_service_a_port_of_theirs() -> None:
    deployments = list_kind("Deployment")
    for deployment in deployments.values():
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    for service in list_kind("Service").values():
        pods = deployments[service["spec"]["selector"]["app"]]["spec"]["template"]["spec"]
        open_ports = [port for container in pods["containers"] for port in container["ports"]]
        for port in service["spec"]["ports"]:
            wanted = port.get("targetPort", port["port"])
            assert wanted in [value for each in open_ports for value in (each.get("name"), each["containerPort"])]


def test_every_folder_that_is_mounted_exists_and_the_home_can_be_written() -> None:
    for deployment in list_kind("Deployment").values():
        pods = deployment["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pods.get("volumes", ())}
        for container in pods["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
            assert mounts.keys() <= volumes.keys()
            homes = [entry["value"] for entry in container.get("env", ()) if entry["name"] == "RACEDAY_HOME"]
            assert all(home in mounts.values() for home in homes)


def test_what_the_addresses_name_is_there() -> None:
    (secret,) = list_kind("Secret").values()
    settings = Settings.from_environment(secret["stringData"])
    services = list_kind("Service")
    assert settings.broker_url is not None
    assert settings.database_url is not None
    assert "redis://redis:6379" in settings.broker_url.get_secret_value()
    assert "@pgbouncer:6432/" in settings.database_url.get_secret_value()
    assert {"redis", "pgbouncer"} <= services.keys()
