"""The layer table, read off the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import raceday_dagster

PACKAGE = Path(raceday_dagster.__file__).parent
NAME = "raceday_dagster"

FOUNDATION = {"racing", "errors", "outcomes", "settings", "logs"}
STAGES = {"fetch", "transform", "write"}
ALONE = {"simulator", "executor", "event_buffer", "launcher", "run_deletion", "web_address"}
LAYERS: dict[str, set[str]] = {
    **dict.fromkeys(FOUNDATION, FOUNDATION),
    **{stage: FOUNDATION | {stage} for stage in STAGES},
    **{module: {module} for module in ALONE},
    "storage": {"event_buffer", "run_deletion", "storage"},
    "run_preload": {"definitions", "launcher", "storage", "transform", "run_preload"},
    "web_guard": {"web_guard"},
    "webserver": {"web_address", "web_guard", "webserver"},
    "defs": FOUNDATION | STAGES | {"executor", "launcher", "storage", "defs"},
    "sandbox": FOUNDATION | STAGES | ALONE | {"storage", "sandbox", NAME},
    "service": FOUNDATION | STAGES | ALONE | {"storage", "sandbox", "service", NAME},
}
TOP = {"definitions", "cli", NAME}
DAGSTER_PRIVATE = {"executor", "storage", "run_deletion", "launcher", "webserver"}
DAGSTER = DAGSTER_PRIVATE | {"definitions", "defs", "cli", "sandbox", "service"}
FOUNDATION_PACKAGES = {"pydantic", "structlog"}
UNNAMED_HOMES = {"utils", "helpers", "common", "core", "manager"}


def find_modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_module(path: Path) -> str:
    """The part of the package a file belongs to: ``write`` for ``write/store.py``."""
    first = path.relative_to(PACKAGE).parts[0]
    return NAME if first == "__init__.py" else first.removesuffix(".py")


def read_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_own(imported: str) -> str | None:
    parts = imported.split(".")
    if parts[0] != NAME:
        return None
    return parts[1] if len(parts) > 1 else NAME


@pytest.mark.parametrize("path", find_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    module = name_module(path)
    own = {name for imported in read_imports(path) if (name := name_own(imported))}
    if module not in TOP:
        assert own <= LAYERS[module], f"{module} may not import {sorted(own - LAYERS[module])}"


@pytest.mark.parametrize("path", find_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dagster_stays_where_it_belongs(path: Path) -> None:
    module = name_module(path)
    dagster = {name for name in read_imports(path) if name.split(".")[0].startswith("dagster")}
    if module not in DAGSTER:
        assert not dagster
    if module not in DAGSTER_PRIVATE:
        assert not {name for name in dagster if any(part.startswith("_") for part in name.split("."))}


@pytest.mark.parametrize(
    "path",
    [path for path in find_modules() if name_module(path) in FOUNDATION],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_the_foundation_needs_little_more_than_the_standard_library(path: Path) -> None:
    import sys

    roots = {name.split(".")[0] for name in read_imports(path)} - {NAME}
    assert roots <= set(sys.stdlib_module_names) | FOUNDATION_PACKAGES


def test_every_module_has_a_name_of_its_own() -> None:
    parts = {part for path in find_modules() for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not parts & UNNAMED_HOMES


def test_every_module_is_in_the_table() -> None:
    assert {name_module(path) for path in find_modules()} <= set(LAYERS) | TOP


def reads_environment(tree: ast.Module) -> bool:
    written = {
        id(target.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Subscript)
    }
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("os", "environ"), ("os", "getenv")}
        and id(node) not in written
        for node in ast.walk(tree)
    )


def test_only_settings_reads_the_environment() -> None:
    readers = {name_module(path) for path in find_modules() if reads_environment(ast.parse(path.read_text("utf-8")))}
    # The command and the simulator hand their environment on to a process they start. Dagster alone loads its storage,
    # which imports no settings of ours.
    assert readers <= {"settings", "cli", "simulator", "storage"}
