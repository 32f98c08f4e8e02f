"""The examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import excitation_jax

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(excitation_jax.__path__, "excitation_jax.")
    if not name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_public_names_are_documented() -> None:
    for name in excitation_jax.__all__:
        value = getattr(excitation_jax, name)
        assert value.__doc__, name
