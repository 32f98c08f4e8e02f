"""Excitation Backprop for any JAX model: `excite` and what is built on it."""

import importlib
import sys
from typing import Any

from .engine.errors import UnsupportedPrimitiveError
from .engine.transform import excite
from .explain import markov
from .explain.calls import Excitation, attention_map, excitation_vjp, layers, tag
from .explain.layer_table import Layer
from .explain.nnx import nnx_fn
from .explain.randomisation import RandomisationCheck, randomisation_check
from .explain.report import RuleReport, RuleRow, explain_rules
from .explain.targets import top_down_signal
from .maps import combine, metrics
from .rules import EXCITATION, EXCITATION_RESIDUAL, EXCITATION_TORCHRAY, RuleSet

__version__ = "0.1.0"

__all__ = [
    "EXCITATION",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "Excitation",
    "Layer",
    "RandomisationCheck",
    "RuleReport",
    "RuleRow",
    "RuleSet",
    "UnsupportedPrimitiveError",
    "attention_map",
    "combine",
    "data",
    "digits",
    "evaluation",
    "excitation_vjp",
    "excite",
    "explain_rules",
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

# Modules whose public path is shorter than their room's.
for _module in (combine, markov, metrics):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

#: Rooms that are imported when they are first asked for: some need extras, or take long.
_ON_DEMAND = ("data", "digits", "evaluation", "methods", "models", "training")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
