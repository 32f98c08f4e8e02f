"""A demo that needs no download: a network that finds handwritten digits in clutter.

`load` restores the trained `DigitsNet` that ships inside the package, `make_scenes` composes
scenes for it, and `python -m excitation_jax.digits` trains it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models import weight_files
from .model import DigitsNet
from .scenes import Scenes, make_scenes

__all__ = ["CHECKPOINT", "DigitsNet", "Scenes", "load", "make_scenes"]

CHECKPOINT = Path(__file__).resolve().parent / "checkpoint"
"""The directory of the Orbax checkpoint that ships inside the package."""


def load(checkpoint: Path = CHECKPOINT) -> tuple[DigitsNet, dict[str, Any]]:
    """The demo model and its trained variables.

    Args:
        checkpoint: an Orbax checkpoint of the model's variables; the one in the package unless
            given. Nothing is written there, and it may come from a machine with other devices.

    Returns:
        The model and {"params": ..., "batch_stats": ...}, for `model.apply(variables, images)`,
        float32 on JAX's default device.

    Raises:
        FileNotFoundError: `checkpoint` does not exist.
        ValueError: it is no checkpoint, or a damaged one.
    """
    return DigitsNet(), weight_files.load(checkpoint).variables
