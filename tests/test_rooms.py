"""The package is twelve rooms, and imports between them point one way: read from the source.

An import counts wherever it stands: at the top, inside a function, or for type checkers only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import excitation_jax

PACKAGE = Path(excitation_jax.__file__).parent
ROOT = PACKAGE.name

#: What each room may import beside itself.
BELOW: dict[str, set[str]] = {
    "program": set(),
    "rules": {"program"},
    "engine": {"program", "rules"},
    "explain": {"program", "rules", "engine", "maps"},
    "methods": {"program", "rules", "engine", "explain", "maps"},
    "maps": set(),
    "models": {"maps"},
    "digits": {"maps", "models"},
    "data": {"maps", "models", "digits"},
    "training": {"maps", "models", "digits", "data"},
    "evaluation": {"maps", "models", "digits", "data", "explain", "methods"},
}
BELOW["cli"] = set(BELOW)

#: By module: its file, a room's or the package's __init__.py included.
FILES = {
    ".".join([ROOT, *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str) -> Iterator[tuple[str, str]]:
    """What a module imports of the package: modules of `FILES`, each with the name asked of it."""
    path = FILES[module]
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == ROOT:
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names if source.split(".")[0] == ROOT else ():
                inner = f"{source}.{alias.name}"
                yield (inner, "") if inner in FILES else (source, alias.name)


GRAPH = {module: {target for target, _ in imports(module)} for module in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if module != ROOT else ""


def reached(module: str) -> set[str]:
    """All that a module imports, however indirectly."""
    found: set[str] = set()
    rest = [module]
    while rest:
        new = GRAPH[rest.pop()] - found
        found |= new
        rest += new
    return found


def test_the_rooms() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*BELOW, "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_one_way(room: str) -> None:
    for module in FILES:
        if room_of(module) != room:
            continue
        for target, name in imports(module):
            if target == ROOT:  # all of the package, of which the command line tells the version
                assert (room, name) == ("cli", "__version__"), f"{module} imports {name or target}"
            elif module.endswith(".__main__"):  # started, and then the command line comes next
                assert room_of(target) == "cli", module
            else:
                assert room_of(target) in {room, *BELOW[room]}, f"{module} imports {target}"
            assert not target.endswith("__main__"), f"{module} imports what is only to be started"


def test_no_circles() -> None:
    circles = {module for module in FILES if module in reached(module)}
    assert circles == set()


def test_the_command_line_is_in_one_room() -> None:
    for module, path in FILES.items():
        if room_of(module) != "cli":
            assert "argparse" not in path.read_text(), module
