"""The house, read off the imports: which folder may import which, and what else each may touch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raceday_dagster

NAME = "raceday_dagster"
PACKAGE = Path(raceday_dagster.__file__).parent
LONGEST_FILE = 420

FOUNDATION = {"racing", "errors", "settings", "logs"}
STAGE = FOUNDATION
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "racing": {"errors"},
    "settings": {"errors"},
    "logs": {"settings"},
    "fetch": STAGE,
    "transform": {"racing", "errors"},
    "store": STAGE,
    "images": STAGE,
    "workers": FOUNDATION | {"transform"},
    "archive": FOUNDATION | {"store"},
    "dagster_plugins": set(),
    "simulator": set(),
    "defs": FOUNDATION | {"fetch", "transform", "store", "images", "workers", "archive", "dagster_plugins"},
    "market": FOUNDATION | {"store"},
    "web": FOUNDATION | {"store", "market"},
    "sandbox": FOUNDATION | {"store", "simulator"},
    # Measures what polls, the same races in several ways, in a sandbox: nothing that polls knows it.
    "bench": FOUNDATION | {"fetch", "store", "workers", "defs", "sandbox", "simulator"},
    # The service starts the parts: it knows the address of the UI, and the sandbox that a simulated day runs in.
    "service": FOUNDATION | {"store", "dagster_plugins", "web", "sandbox", "simulator"},
}
TOP = {"definitions", "cli", NAME}
DAGSTER = {"definitions", "defs", "dagster_plugins", "service", "web", "cli", "sandbox", "bench"}
DAGSTER_PRIVATE = {"dagster_plugins", "web/server.py"}
"""The UI's server has no other door: what Dagster offers is a command line that binds its own port."""
FOUNDATION_PACKAGES = {
    "racing": {"pydantic"},
    "errors": set(),
    "settings": {"pydantic", "sqlalchemy"},
    "logs": {"structlog"},
}
IMPURE = {"os", "time", "threading", "multiprocessing", "subprocess", "socket", "pathlib", "io", "random", "logging"}
CLOCKS = {"now", "today", "utcnow"}
PURE = {"transform", "racing"}
COMMANDS = {"service/web_ui.py", "bench/options.py"}
"""Commands outside of `cli`, in the environment they were started in."""
UNNAMED = {"utils", "helpers", "common", "core", "manager"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def name_folder(path: Path) -> str:
    """The folder of a file below the package, or the file's own name at the top."""
    first = path.relative_to(PACKAGE).parts[0]
    return NAME if first == "__init__.py" else first.removesuffix(".py")


def read_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read_own_imports(path: Path) -> set[str]:
    parts = [name.split(".") for name in read_imports(path) if name.split(".")[0] == NAME]
    return {part[1] for part in parts if len(part) > 1 and part[1] != "__file__"}


def read_names(path: Path) -> Iterator[tuple[str, str]]:
    """Each ``value.attribute`` whose value is a plain name, as in ``datetime.now``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr


@pytest.mark.parametrize("path", FILES, ids=name_place)
def test_file_imports_only_what_its_folder_may(path: Path) -> None:
    folder = name_folder(path)
    if folder not in TOP:
        surplus = read_own_imports(path) - MAY_IMPORT[folder] - {folder}
        assert not surplus, f"{folder} may not import {sorted(surplus)}"


@pytest.mark.parametrize("path", FILES, ids=name_place)
def test_dagster_is_imported_where_it_belongs(path: Path) -> None:
    dagster = {name for name in read_imports(path) if name.split(".")[0].startswith("dagster")}
    if name_folder(path) not in DAGSTER:
        assert not dagster
    if not {name_folder(path), name_place(path)} & DAGSTER_PRIVATE:
        assert not {name for name in dagster if any(part.startswith("_") for part in name.split("."))}


@pytest.mark.parametrize("path", [path for path in FILES if name_folder(path) in PURE], ids=name_place)
def test_pure_folder_touches_nothing_outside_itself(path: Path) -> None:
    roots = {name.split(".")[0] for name in read_imports(path)}
    assert not roots & IMPURE
    assert not {f"{value}.{name}" for value, name in read_names(path) if name in CLOCKS}
    assert not [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if is_call_of(node, "open")]


def is_call_of(node: ast.AST, function: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function


@pytest.mark.parametrize("path", [path for path in FILES if name_folder(path) in FOUNDATION_PACKAGES], ids=name_place)
def test_foundation_needs_little_more_than_the_standard_library(path: Path) -> None:
    roots = {name.split(".")[0] for name in read_imports(path)} - {NAME}
    assert roots <= set(sys.stdlib_module_names) | FOUNDATION_PACKAGES[name_folder(path)]


def test_every_folder_is_in_the_table_and_says_what_it_must_not_import() -> None:
    assert {name_folder(path) for path in FILES} <= set(MAY_IMPORT) | TOP
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE and path.parent.name != "versions":
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), (
                f"{name_place(path)} does not say what it is for"
            )


def test_every_file_has_a_name_and_a_size() -> None:
    assert not {part for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts} & UNNAMED
    assert not [name_place(path) for path in FILES if len(path.read_text("utf-8").splitlines()) > LONGEST_FILE]


def test_tests_mirror_the_folders() -> None:
    folders = {name_folder(path) for path in FILES if path.parent != PACKAGE}
    tests = Path(__file__).parents[1]
    for tier in ("unit", "integration"):
        mirrored = {path.name for path in (tests / tier).iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert mirrored <= folders, f"{tier}: no folder of the package is called so"


def reads_environment(path: Path) -> bool:
    tree = ast.parse(path.read_text("utf-8"))
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
    readers = {name_folder(path) for path in FILES if reads_environment(path) and name_place(path) not in COMMANDS}
    # The commands and the simulator hand their environment on to a process they start. What is plugged into Dagster is
    # loaded by Dagster alone and imports no settings of ours.
    assert readers <= {"settings", "cli", "simulator", "dagster_plugins"}
