"""`import excitation_jax`: what is public, and that nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import excitation_jax as ej

SHORT = {"combine": "maps.combine", "markov": "explain.markov", "metrics": "maps.metrics"}


def printed(code: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
    )
    return done.stdout.strip()


def test_only_public_names_are_shown() -> None:
    assert sorted([*ej.__all__, "__version__"]) == dir(ej)
    for name in ej.__all__:
        assert getattr(ej, name) is not None, name
    with pytest.raises(AttributeError, match="has no attribute 'excitation'"):
        ej.excitation  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'excitation'"):
        exec("from excitation_jax import excitation")


def test_importing_the_package_imports_nothing_else() -> None:
    code = """if True:
        import sys
        import excitation_jax
        dir(excitation_jax), excitation_jax.__version__
        print([m for m in sys.modules if m in ("jax", "numpy") or m.startswith("excitation_jax.")])
    """
    assert printed(code) == "[]"


@pytest.mark.parametrize("name", ["models", "methods", "metrics", "combine", "markov", "rules"])
def test_rooms_and_short_paths_need_no_import_of_their_own(name: str) -> None:
    assert printed(f"import excitation_jax as ej; print(ej.{name}.__name__)") in (
        f"excitation_jax.{name}",
        f"excitation_jax.{SHORT.get(name)}",
    )


@pytest.mark.parametrize("name", SHORT)
def test_a_short_path_is_the_module_in_its_room(name: str) -> None:
    there = importlib.import_module(f"excitation_jax.{SHORT[name]}")
    assert importlib.import_module(f"excitation_jax.{name}") is getattr(ej, name) is there
    assert there.__name__ == there.__spec__.name == f"excitation_jax.{SHORT[name]}"
    # In a process that asks for nothing else, by every way of asking.
    for way in (
        f"import excitation_jax.{name} as found",
        f"from excitation_jax import {name} as found",
        f"import excitation_jax.{SHORT[name]}, excitation_jax; found = excitation_jax.{name}",
        f"import importlib; found = importlib.import_module('excitation_jax.{name}')",
    ):
        assert printed(f"{way}; print(found.__name__)") == f"excitation_jax.{SHORT[name]}", way


def test_results_and_errors_can_be_pickled() -> None:
    w, x = jnp.ones((3, 2)), jnp.ones((1, 3))
    found = ej.excitation_vjp(lambda w, x: jax.nn.relu(x @ w), w, x, 0)
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, ej.Excitation)
    assert jax.tree.structure(again) == jax.tree.structure(found)
    assert pickle.loads(pickle.dumps(ej.UnsupportedPrimitiveError)) is ej.UnsupportedPrimitiveError
