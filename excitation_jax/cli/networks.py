"""Models as the command line sees them, by name: the digits model and those of the registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import digits, models

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..program.hints import Bounds

#: Short names, for those of the registry.
ALIASES = {"squeezenet": "squeezenet_v1_0_caffe"}


@dataclass(frozen=True)
class Network:
    """A model with what a command needs to know of it.

    Attributes:
      apply: (variables, images (N, H, W, 3)) -> logits (N, C), or a score map (N, h, w, C).
      example: one input of zeros, (1, H, W, 3).
      prepare: a photograph -> its input (1, H, W, 3).
      view: a photograph -> the part of it that the input shows.
      scores: logits (N, C) -> scores in [0, 1].
      bounds: (low, high), the range of its input.
      layer: where its maps are read unless the user says otherwise.
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    example: jax.Array
    prepare: Callable[[Image], jax.Array]
    view: Callable[[Image], Image]
    scores: Callable[[Any], Any]
    bounds: Bounds
    layer: str = "auto"

    def logits(self, outputs: jax.Array) -> jax.Array:
        """(N, C) from what ``apply`` returned: of a score map, the mean over positions."""
        return outputs if outputs.ndim == 2 else outputs.mean(axis=(1, 2))


def names() -> tuple[str, ...]:
    """Of all networks, the digits model first."""
    return ("digits", *ALIASES, *models.names())


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, if no network is named so."""
    if name in names():
        return
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ValueError(f"no network is named {name!r}: {hint}`excitation-jax models` lists them")


def network(
    name: str, weights: str | None, *, untrained: bool = False, whole: bool = False
) -> Network:
    """The network of that name.

    Args:
      weights: see `models.load`. untrained: without weights, its variables are shapes only.
      whole: the fully convolutional form, whose input is the whole photograph in its own shape.

    Raises:
      ValueError, OSError, ImportError: the weights are missing, or see `models.load`.
    """
    if name == "digits":
        if weights:
            raise ValueError("--model digits brings its own weights: leave --weights out")
        if whole:
            raise ValueError("--whole needs a network of the registry, and digits is none")
        return digits_network()
    if not weights and not untrained:
        raise ValueError(f"--model {name} needs --weights FILE")
    spec = models.get(ALIASES.get(name, name))
    if weights:
        model, variables = models.load(spec.name, weights, fully_convolutional=whole)
    else:
        model, variables = spec.build(fully_convolutional=whole), spec.expected()

    def prepare(photo: Image) -> jax.Array:
        return spec.preprocessing(photo, keep_aspect=whole)

    return Network(
        model.apply,
        variables,
        jnp.zeros((1, *spec.input_size, 3)),
        prepare,
        (lambda photo: photo) if whole else spec.preprocessing.view,
        spec.probabilities,
        spec.preprocessing.bounds,
        spec.cmwp_layer,
    )


def digits_network() -> Network:
    """The demo model."""

    def prepare(photo: Image) -> jax.Array:
        return jnp.asarray(np.asarray(photo.resize((96, 96)), np.float32)[None] / 255)

    model, variables = digits.load()
    example = jnp.zeros((1, 96, 96, 3))
    return Network(
        model.apply, variables, example, prepare, lambda photo: photo, jax.nn.sigmoid, (0, 1)
    )
