"""What the documentation shows runs: docstrings, README, docs and notebooks."""

import doctest
import importlib
import json
import os
import pkgutil
import re
from pathlib import Path

import pytest

import excitation_jax

os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(excitation_jax.__path__, "excitation_jax.")
    if not name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_public_names_are_documented() -> None:
    for name in excitation_jax.__all__:
        value = getattr(excitation_jax, name)
        assert value.__doc__, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    names: dict = {}  # the blocks of a page follow on each other
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    if page.name == "README.md":
        assert "(1, 3, 96, 96)" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_notebooks(notebook: Path) -> None:
    names: dict = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
