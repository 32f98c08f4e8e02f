"""The rules: what happens to the probability at each operation."""

from .elementwise import Elementwise, Product, Quotient
from .linear import Affine, Difference, Sum
from .pooling import Winner
from .rule import Call, Rule, Site, safe_divide
from .ruleset import EXCITATION, EXCITATION_RESIDUAL, EXCITATION_TORCHRAY, RuleSet
from .structure import Move, Select

__all__ = [
    "EXCITATION",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "Affine",
    "Call",
    "Difference",
    "Elementwise",
    "Move",
    "Product",
    "Quotient",
    "Rule",
    "RuleSet",
    "Select",
    "Site",
    "Sum",
    "Winner",
    "safe_divide",
]
