"""Excitation Backprop for any JAX model: `excite` and what is built on it.

Importing the package imports nothing else. Each public name is resolved when it is first asked
for: so `excitation-jax --help` need not wait for JAX, nor a map for the data sets and their extras.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers and editors
    from . import data, digits, evaluation, maps, methods, models, rules, training
    from .engine.excite import excite
    from .engine.plan import UnsupportedPrimitiveError
    from .explain import markov
    from .explain.calls import Excitation, attention_map, excitation_vjp, gate, layers, tag
    from .explain.confidence import confidence_map
    from .explain.layer import Layer
    from .explain.nnx import nnx_fn
    from .explain.randomisation import RandomisationCheck, randomisation_check
    from .explain.report import RuleReport, RuleRow, explain_rules
    from .explain.targets import top_down_signal
    from .maps import combine, metrics
    from .rules.ruleset import (
        EXCITATION,
        EXCITATION_CONSERVING,
        EXCITATION_RESIDUAL,
        EXCITATION_TORCHRAY,
        EXCITATION_UNMERGED,
        RuleSet,
    )

__version__ = "0.1.0"

__all__ = [
    "EXCITATION",
    "EXCITATION_CONSERVING",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "EXCITATION_UNMERGED",
    "Excitation",
    "Layer",
    "RandomisationCheck",
    "RuleReport",
    "RuleRow",
    "RuleSet",
    "UnsupportedPrimitiveError",
    "attention_map",
    "combine",
    "confidence_map",
    "data",
    "digits",
    "evaluation",
    "excitation_vjp",
    "excite",
    "explain_rules",
    "gate",
    "layers",
    "maps",
    "markov",
    "methods",
    "metrics",
    "models",
    "nnx_fn",
    "randomisation_check",
    "rules",
    "tag",
    "top_down_signal",
    "training",
]

#: Names by the module that defines them.
_DEFINED = {
    "engine.excite": ("excite",),
    "engine.plan": ("UnsupportedPrimitiveError",),
    "explain.calls": ("Excitation", "attention_map", "excitation_vjp", "gate", "layers", "tag"),
    "explain.confidence": ("confidence_map",),
    "explain.layer": ("Layer",),
    "explain.nnx": ("nnx_fn",),
    "explain.randomisation": ("RandomisationCheck", "randomisation_check"),
    "explain.report": ("RuleReport", "RuleRow", "explain_rules"),
    "explain.targets": ("top_down_signal",),
    "rules.ruleset": (
        "EXCITATION",
        "EXCITATION_CONSERVING",
        "EXCITATION_RESIDUAL",
        "EXCITATION_TORCHRAY",
        "EXCITATION_UNMERGED",
        "RuleSet",
    ),
}
_DEFINED_IN = {name: module for module, names in _DEFINED.items() for name in names}

#: Modules whose public path is shorter than their room's.
_SHORT = {"combine": "maps.combine", "markov": "explain.markov", "metrics": "maps.metrics"}


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        value = getattr(importlib.import_module(f".{_DEFINED_IN[name]}", __name__), name)
    elif name in __all__:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _ShortPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `import excitation_jax.metrics` give the module that is in a room."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __name__ or name not in _SHORT:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(f".{_SHORT[spec.name.rpartition('.')[2]]}", __name__)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run already. Python has given it the spec of the short path, which does not agree
        # with its relative imports.
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_ShortPaths())
