"""Small, faithful versions of the architectures that the library must explain unmodified."""

from . import (
    attention,
    convolutional,
    equinox_models,
    haiku_models,
    language,
    mobile,
    nnx_models,
    recurrent,
    residual,
    several_inputs,
)
from .entry import Entry, Example

FAMILIES = (
    residual,
    mobile,
    convolutional,
    attention,
    language,
    recurrent,
    several_inputs,
    nnx_models,
    equinox_models,
    haiku_models,
)
ENTRIES = {entry.name: entry for family in FAMILIES for entry in family.ENTRIES}

__all__ = ["ENTRIES", "Entry", "Example"]
