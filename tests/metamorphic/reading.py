"""What an identity must not change: outputs, maps, strides, and what "auto" reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import excitation_jax as ej

from .identities import Identity, changes
from .interpreted import interpreted
from .mutation import Place, mutated, places

#: Of probabilities that sum to one.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Reading:
    """What was read of a model.

    Attributes:
      plain: the outputs of the model itself.
      outputs: by map, those of the call that the map is from.
      maps: by contrastive or not and by layer.
      axes: by layer, its shape, strides and spatial axes; of "auto", which may be missing.
    """

    plain: np.ndarray
    outputs: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    axes: dict[str, tuple]


def read(
    model: Callable, params: Any, x: Any, target: Any, layers: Sequence[str] = ("layer",),
    kinds: Sequence[bool] = (False, True),
) -> Reading:  # fmt: skip
    """Reads a model once, all in one trace.

    Args:
      layers: names of layers beside the input and "auto"; those that the model does not have are
        left out.
      kinds: contrastive or not.
    """

    def tagged(params: Any, x: jax.Array) -> jax.Array:
        return model(params, ej.tag(x, "the input"))

    table = ej.layers(tagged, params, x)
    by_name = {layer.name: layer for layer in table}
    names = ["the input", *(name for name in layers if name in by_name)]
    axes = {name: described(by_name[name]) for name in names if name in by_name}
    if table.auto is not None:
        axes["auto"] = described(table.auto)
        if table.auto.name not in names:
            names.append("auto")

    def run(params: Any, x: jax.Array, target: Any) -> tuple:
        found = {
            contrastive: ej.excitation_vjp(
                tagged, params, x, target, layer=names, contrastive=contrastive
            )
            for contrastive in kinds
        }
        return model(params, x), found

    plain, found = interpreted(run, params, x, target)
    outputs, maps = {}, {}
    for contrastive, result in found.items():
        kind = "c-MWP" if contrastive else "MWP"
        outputs[kind] = result.outputs
        maps.update({f"{kind} at {name}": array for name, array in result.mwp.items()})
        if table.auto is not None:
            maps.setdefault(f"{kind} at auto", result.mwp.get(table.auto.name))
    return Reading(plain, outputs, maps, axes)


def described(layer: ej.Layer) -> tuple:
    return layer.shape, tuple(map(str, layer.stride)), layer.spatial_axes


def differences(found: Reading, right: Reading, tolerance: float = TOLERANCE) -> list[str]:
    """In what two readings differ that must not; each begins with what it concerns."""
    differ = []
    close = np.allclose(found.plain, right.plain, rtol=1e-4, atol=1e-5)
    if not close:
        differ.append("program: the mutant computes something else")
    for kind, outputs in found.outputs.items():
        if not np.array_equal(outputs, found.plain, equal_nan=True):
            differ.append(f"outputs: those of {kind} are not the model's bits")
    for name in right.axes.keys() | found.axes.keys():
        a, b = found.axes.get(name), right.axes.get(name)
        if a != b:
            what = "auto" if name == "auto" else "axes"
            differ.append(f"{what}: {name} is {a}, not {b}")
    for name in sorted(right.maps.keys() & found.maps.keys()):
        a, b = found.maps[name], right.maps[name]
        if a.shape != b.shape:
            continue  # told above
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance):
            differ.append(f"map: {name} differs by {np.abs(a - b).max():.2g}")
    return differ


def traced_once(model: Callable, params: Any, x: Any) -> Callable:
    """The same model; changing and tracing it takes longer than evaluating its jaxpr."""
    closed, shape = jax.make_jaxpr(model, return_shape=True)(params, x)

    def evaluate(params: Any, x: jax.Array) -> Any:
        outputs = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves((params, x)))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return evaluate


Put = Sequence[tuple[Place, Identity]]


@dataclass(eq=False)
class Subject:
    """A model that identities are put into.

    Attributes:
      model, params, x, target: as in `excitation_jax.excitation_vjp`.
      layers: as in `read`.
    """

    model: Callable
    params: Any
    x: Any
    target: Any
    layers: tuple[str, ...] = ("layer",)

    @functools.cached_property
    def reading(self) -> Reading:
        """What is read of the model as it is."""
        return read(self.model, self.params, self.x, self.target, self.layers)

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        return tuple(places(self.model, self.params, self.x))

    def differences(self, put: Put, kinds: Sequence[bool] = (False, True)) -> list[str]:
        """What identities at places change; an exception is told, too."""
        right = self.reading  # what it raises is no fault of the identity
        by_place, own = changes(put)
        params = self.params, own
        try:
            model = traced_once(mutated(self.model, by_place), params, self.x)
            found = read(model, params, self.x, self.target, self.layers, kinds)
        except Exception as error:
            return [f"error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        return differences(found, right)
