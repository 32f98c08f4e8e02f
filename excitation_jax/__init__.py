"""Excitation Backprop for any JAX model: `excite` and what is built on it."""

from .errors import UnsupportedPrimitiveError
from .explain import Excitation, attention_map, excitation_vjp, layers, tag
from .layers import Layer
from .report import RuleReport, explain_rules
from .rules import EXCITATION, EXCITATION_RESIDUAL, EXCITATION_TORCHRAY, RuleSet
from .targets import top_down_signal
from .transform import excite

__version__ = "0.1.0"

__all__ = [
    "EXCITATION",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "Excitation",
    "Layer",
    "RuleReport",
    "RuleSet",
    "UnsupportedPrimitiveError",
    "attention_map",
    "excitation_vjp",
    "excite",
    "explain_rules",
    "layers",
    "tag",
    "top_down_signal",
]
