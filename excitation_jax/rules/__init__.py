"""The rules: what happens to the probability at each operation."""

from .control_flow import DeviceSum, Within
from .elementwise import Elementwise, Product, Quotient
from .linear import Affine, Difference, Sum
from .pooling import Winner
from .rule import Call, Rule, Site, safe_divide
from .ruleset import EXCITATION, EXCITATION_RESIDUAL, EXCITATION_TORCHRAY, RuleSet
from .structure import Gather, Move, Scatter, Select

__all__ = [
    "EXCITATION",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "Affine",
    "Call",
    "DeviceSum",
    "Difference",
    "Elementwise",
    "Gather",
    "Move",
    "Product",
    "Quotient",
    "Rule",
    "RuleSet",
    "Scatter",
    "Select",
    "Site",
    "Sum",
    "Winner",
    "Within",
    "safe_divide",
]
