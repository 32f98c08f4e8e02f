"""What the documentation shows runs: docstrings, README, docs and notebooks."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from paths import ROOT

import excitation_jax

matplotlib.use("agg")

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


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks(notebook: Path) -> None:
    names: dict = {}
    try:
        for cell in cells(notebook):
            if cell["cell_type"] == "code":
                where = f"{notebook.name}, {cell['id']}"
                exec(compile("".join(cell["source"]), where, "exec"), names)
    finally:
        plt.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_are_stored_without_results(notebook: Path) -> None:
    for number, cell in enumerate(cells(notebook)):
        assert cell["id"] == f"cell-{number:02}"
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_links_of_notebooks_lead_to_files(notebook: Path) -> None:
    prose = [cell for cell in cells(notebook) if cell["cell_type"] == "markdown"]
    for link in re.findall(r"\]\(([^)#]+)\)", "".join("".join(cell["source"]) for cell in prose)):
        assert (notebook.parent / link).exists(), link


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text())["cells"]
