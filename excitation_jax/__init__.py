"""Excitation Backprop for any JAX model: `excite` and what is built on it."""

from .errors import UnsupportedPrimitiveError
from .explain import Excitation, attention_map, excitation_vjp, layers, tag
from .layers import Layer
from .nnx import nnx_fn
from .report import RuleReport, RuleRow, explain_rules
from .rules import EXCITATION, EXCITATION_RESIDUAL, EXCITATION_TORCHRAY, RuleSet
from .sanity import RandomisationCheck, randomisation_check
from .targets import top_down_signal
from .transform import excite

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
    "excitation_vjp",
    "excite",
    "explain_rules",
    "layers",
    "nnx_fn",
    "randomisation_check",
    "tag",
    "top_down_signal",
]
