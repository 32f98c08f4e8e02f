"""The rules: what happens to the probability at each operation."""

from .arithmetic import safe_divide
from .passing import (
    Difference,
    Elementwise,
    Gather,
    Move,
    Place,
    PlacedWinner,
    Product,
    Quotient,
    Select,
    Winner,
    Within,
)
from .rule import Call, Rule, Site
from .ruleset import (
    EXCITATION,
    EXCITATION_CONSERVING,
    EXCITATION_RESIDUAL,
    EXCITATION_TORCHRAY,
    EXCITATION_UNMERGED,
    RuleSet,
    without_norm,
)
from .sharing import Affine, DeviceSum, PlacedSum, Sum

__all__ = [
    "EXCITATION",
    "EXCITATION_CONSERVING",
    "EXCITATION_RESIDUAL",
    "EXCITATION_TORCHRAY",
    "EXCITATION_UNMERGED",
    "Affine",
    "Call",
    "DeviceSum",
    "Difference",
    "Elementwise",
    "Gather",
    "Move",
    "Place",
    "PlacedSum",
    "PlacedWinner",
    "Product",
    "Quotient",
    "Rule",
    "RuleSet",
    "Select",
    "Site",
    "Sum",
    "Winner",
    "Within",
    "safe_divide",
    "without_norm",
]
