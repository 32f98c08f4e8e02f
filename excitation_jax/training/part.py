"""Which parameters of a network are trained, and what its logits are as a function of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from .backbone import Backbone
from .output_layer import Variables, layer_of, with_layer

#: "output": the output layer alone. "all": every parameter.
Layers = Literal["output", "all"]


class Part(NamedTuple):
    """What is trained.

    trained: the parameters.
    frozen: what else `logits` needs; not differentiated.
    inputs: uint8 (N, S, S, 3) -> what `logits` takes: all that does not change while the
        parameters do.
    logits: (frozen, parameters, inputs) -> (N, classes).
    of_features: whether inputs are what a network has computed, and worth keeping.
    """

    trained: Any
    frozen: Any
    inputs: Callable[[Any], Any]
    logits: Callable[[Any, Any, Any], jax.Array]
    of_features: bool


def part_of(
    layers: Layers,
    backbone: Backbone,
    variables: Variables,
    output_layer: str,
    normalise: Callable[[jax.Array], jax.Array],
) -> Part:
    """The part of a network that is trained.

    Args:
        layers: which.
        backbone: of the network.
        variables: at the beginning.
        output_layer: the layer's name.
        normalise: uint8 (N, S, S, 3) in RGB -> the network's input.
    """
    if layers == "output":
        below = jax.jit(lambda every, images: backbone.features(every, normalise(images)))
        return Part(
            trained_in(layers, variables, output_layer),
            {},
            lambda images: below(variables, images),
            lambda frozen, head, features: backbone.logits(head, features),
            of_features=True,
        )

    def logits(frozen: Any, parameters: Any, images: Any) -> jax.Array:
        every = {**frozen, "params": parameters}
        features = backbone.features(every, normalise(images))
        return backbone.logits(layer_of(every, output_layer), features)

    frozen = {name: held for name, held in variables.items() if name != "params"}
    parameters = trained_in(layers, variables, output_layer)
    return Part(parameters, frozen, lambda images: images, logits, of_features=False)


def trained_in(layers: Layers, variables: Variables, output_layer: str) -> Any:
    """The parameters among the variables that are trained."""
    return layer_of(variables, output_layer) if layers == "output" else variables["params"]


def with_trained(
    layers: Layers, variables: Variables, output_layer: str, trained: Any
) -> Variables:
    """The variables with others in the place of those that are trained."""
    if layers == "output":
        return with_layer(variables, output_layer, trained)
    return {**variables, "params": trained}
