"""The papers' networks in Flax Linen, and the import of their weights."""

from . import squeezenet, weights
from .squeezenet import SqueezeNet

__all__ = ["SqueezeNet", "squeezenet", "weights"]
