"""The output layer among a network's variables: finding it, replacing it, making a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

Variables = dict[str, Any]


def new_output_layer(
    model: nn.Module, variables: Any, size: int = 224, output_layer: str = "logits"
) -> Variables:
    """The variables with an output layer of zeros, of the shape that the model needs.

    Under a linear layer's convex loss nothing needs to be random.

    Args:
        model: with the new number of classes, e.g. `MobileNetV2(20)`.
        variables: of the network as it was trained; its own output layer is replaced.
        size: side of the network's input.
        output_layer: the layer's name in variables["params"]; "a/b" is the b in a.

    Raises:
        ValueError: the model has no such layer.
    """
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        layer_of(_expected(model, size), output_layer),
    )
    return with_layer(flax.core.unfreeze(variables), output_layer, zeros)


def layer_of(variables: Variables, name: str) -> Any:
    """The parameters of a layer.

    Raises:
        ValueError: there is no such layer; the message lists those that there are.
    """
    found = variables["params"]
    for key in name.split("/"):
        if not isinstance(found, Mapping) or key not in found:
            names = ", ".join(_layers(variables["params"]))
            raise ValueError(f"there is no layer {name!r} among the parameters, but {names}")
        found = found[key]
    return found


def with_layer(variables: Variables, name: str, layer: Any) -> Variables:
    """The variables with other parameters of a layer, which may be missing so far."""
    params = _replaced(variables["params"], name.split("/"), layer)
    return {**variables, "params": params}


def check_shapes(model: nn.Module, variables: Variables, size: int, name: str) -> int:
    """Finds out that a layer is as the model needs it. Returns the number of logits.

    Raises:
        ValueError: the layer is missing or has another shape, or the outputs are no (N, classes).
    """
    needed = jax.tree.map(lambda leaf: leaf.shape, layer_of(_expected(model, size), name))
    there = jax.tree.map(lambda leaf: leaf.shape, layer_of(variables, name))
    if needed != there:
        raise ValueError(
            f"the model needs a layer {name!r} of {needed}, the variables hold {there}: "
            f"new_output_layer(model, variables) makes one"
        )
    logits = jax.eval_shape(model.apply, variables, _images(size))
    if not isinstance(logits, jax.ShapeDtypeStruct) or len(logits.shape) != 2:
        raise ValueError(f"the model's outputs must be logits (N, classes), got {logits}")
    return logits.shape[1]


def _images(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def _expected(model: nn.Module, size: int) -> Any:
    """The shapes of the model's variables."""
    return jax.eval_shape(model.init, jax.random.key(0), _images(size))


def _layers(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of what holds arrays itself."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            if any(not isinstance(leaf, Mapping) for leaf in value.values()):
                yield prefix + key
            yield from _layers(value, f"{prefix}{key}/")


def _replaced(tree: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _replaced(tree.get(first, {}), rest, value) if rest else value}
