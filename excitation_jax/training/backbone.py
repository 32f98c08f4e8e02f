"""A network in two parts: all that is below its output layer, and that layer.

Where only the output layer is trained, what it is given is the same in every step: it can be
computed once, and a step is then that of a linear classifier.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .output_layer import Variables


class Backbone:
    """The parts of a Linen model, found by running it.

    The logits are the output layer's own outputs, averaged over positions where it has some. What
    a network does to them afterwards is left out: behind SqueezeNet's ReLU a class that no
    photograph excites would have no gradient, and a cross-entropy takes no probabilities.

    Args:
        model: `model.apply(variables, x)` calls the output layer once.
        variables: of the model.
        size: side of the network's input.
        output_layer: the layer's name in variables["params"]; "a/b" is the b in a.

    Raises:
        ValueError: the layer is no module of the model, or is called more than once.

    >>> from excitation_jax.models import resnet
    >>> model = resnet.ResNet(5, depth=18)
    >>> x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> backbone = Backbone(model, variables, 32, "fc")
    >>> features = jax.eval_shape(backbone.features, variables, x)
    >>> features.shape, jax.eval_shape(backbone.logits, variables["params"]["fc"], features).shape
    ((2, 512), (2, 5))
    """

    def __init__(self, model: nn.Module, variables: Any, size: int, output_layer: str) -> None:
        self._model, self._path = model, tuple(output_layer.split("/"))
        found: list[nn.Module] = []
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        jax.eval_shape(lambda v, x: self._run(v, x, found), variables, image)
        if len(found) != 1:
            called = f"is called {len(found)} times" if found else "is no module"
            raise ValueError(
                f"the layer {output_layer!r} {called} of {type(model).__name__}: name the last "
                "layer with parameters, which is called once"
            )
        self._layer = found[0]

    def features(self, variables: Variables, images: jax.Array) -> jax.Array:
        """What the output layer is given for inputs (N, S, S, 3): (N, C), or (N, h, w, C)."""
        return self._run(variables, images, [])

    def logits(self, head: Any, features: jax.Array) -> jax.Array:
        """(N, classes), of the output layer's parameters and its `features`."""
        scores: Any = self._layer.apply({"params": head}, features)
        return jnp.mean(scores, axis=tuple(range(1, scores.ndim - 1)))

    def _run(self, variables: Variables, images: jax.Array, found: list[nn.Module]) -> jax.Array:
        given: list[jax.Array] = []

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.path == self._path and context.method_name == "__call__":
                given.append(args[0])
                found.append(context.module.clone(parent=None))
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            outputs: Any = self._model.apply(variables, images)
        # Without the layer there is nothing to return, and __init__ says so.
        return given[0] if given else outputs
