"""Measures one model of another library, and prints it as one line of JSON.

Started by `third_party` in the environment that has the model's package:

    python -m benchmarks.explain.third_party_measure "Keras/MobileNetV2"
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej
from benchmarks.explain import third_party_jax, third_party_others
from benchmarks.explain.third_party_models import Explained

MODELS = {**third_party_others.MODELS, **third_party_jax.MODELS}
#: Tracing is timed so often, and the fastest counts: the machine may be shared.
TIMES = 3


def measure(made: Explained) -> dict[str, Any]:
    """What the table shows of a model; a part that fails is an error beside the others."""
    fn, params, x, target = made
    row: dict[str, Any] = {}
    try:
        plain = np.asarray(jax.jit(fn)(params, x))
        found = ej.excitation_vjp(fn, params, x, target)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row
        return {"error": shortened(error)}
    row["off"] = difference(plain, np.asarray(found.outputs))
    if row["off"]:  # compiled with more around it, XLA may add in another order
        by_operation = np.asarray(ej.excite(functools.partial(fn, params))(x))
        row["off_by_operation"] = difference(np.asarray(fn(params, x)), by_operation)
    row["input"] = sums(found.mwp)
    for part in (at_auto, losses, trace_time):
        try:
            row |= part(fn, params, x, target)
        except Exception as error:  # noqa: BLE001
            row.setdefault("errors", []).append(f"{part.__name__}: {shortened(error)}")
    return row


def difference(plain: np.ndarray, outputs: np.ndarray) -> float:
    """Of the outputs: the largest, relative to the largest of the plain model's; 0 if equal."""
    if plain.shape != outputs.shape:
        raise ValueError(f"outputs of shape {outputs.shape} in place of {plain.shape}")
    if np.array_equal(plain, outputs):
        return 0.0
    return float(np.abs(plain - outputs).max() / np.abs(plain).max())


def sums(mwp: Any) -> list[float]:
    """The probability of each example, over all arrays of the input."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(mwp)]
    for leaf in leaves:
        if not np.isfinite(leaf).all() or leaf.min() < 0:
            raise ValueError("a map that is not finite, or negative")
    return sum(leaf.reshape(len(leaf), -1).sum(1) for leaf in leaves).tolist()


def at_auto(fn: Callable, params: Any, x: Any, target: Any) -> dict[str, Any]:
    """The layer that "auto" reads, and what arrives there."""
    layer = ej.layers(fn, params, x).auto
    if layer is None:
        return {"auto": None}
    mwp = np.asarray(ej.excitation_vjp(fn, params, x, target, layer="auto").mwp, np.float64)
    batch = 0 if layer.batch_axis is None else layer.batch_axis
    axes = tuple(axis for axis in range(mwp.ndim) if axis != batch)
    return {
        "auto": layer.name,
        "shape": layer.shape,
        "spatial": [layer.shape[axis] for axis in layer.spatial_axes],
        "stride": [float(stride) for stride in layer.stride],
        "at_auto": mwp.sum(axes).tolist(),
    }


def losses(fn: Callable, params: Any, x: Any, target: Any) -> dict[str, Any]:
    """The operations where most probability ends."""
    report = ej.explain_rules(fn, params, x, target=target)
    return {
        "reached": report.reached,
        "lost": sum(row.lost or 0 for row in report.rows),
        "losses": [
            {
                "path": row.path,
                "primitive": row.primitive,
                "lost": row.lost,
                "line": line(row.source),
            }
            for row in report.losses[:5]
        ],
    }


def trace_time(fn: Callable, params: Any, x: Any, target: Any) -> dict[str, float]:
    """Seconds to trace the map and the gradient, which is the parameters' where x is integers."""
    floating = all(jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in jax.tree.leaves(x))

    def score(params: Any, x: Any) -> jax.Array:
        return fn(params, x)[..., 0].sum()

    def mwp(params: Any, x: Any) -> Any:
        return ej.excitation_vjp(fn, params, x, target).mwp

    gradient = jax.grad(score, argnums=int(floating), allow_int=True)
    times = {}
    for name, function in (("trace_gradient", gradient), ("trace", mwp)):
        taken = []
        for _ in range(TIMES):
            jax.clear_caches()  # an earlier trace is not used again
            # A new function: what JAX has traced it knows.
            start = time.process_time()
            jax.make_jaxpr(lambda *args, function=function: function(*args))(params, x)
            taken.append(time.process_time() - start)
        times[name] = min(taken)
    return times


def shortened(error: Exception) -> str:
    """The kind of an error and its first reason, without the machine's paths."""
    refused = getattr(error, "operations", None)
    if isinstance(error, ej.UnsupportedPrimitiveError) and refused:
        name, path, source, reason = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        place = f"{path or '(top level)'} at {line(source)}"
        return f"refused: {name} in {place}{more}: {reason}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def line(source: str) -> str:
    """File and line, without the machine's folders."""
    return source.rsplit("/", 1)[-1].split(" (")[0]


def main() -> None:
    model = MODELS[sys.argv[1]]
    row: dict[str, Any] = {}
    try:
        made = model.make()
    except Exception as error:  # noqa: BLE001
        row = {"error": f"not made: {shortened(error)}"}
    else:
        row = measure(made)
    packages = ("jax", "jaxlib", *model.packages)
    row |= {"model": sys.argv[1], "versions": {name: metadata.version(name) for name in packages}}
    print("ROW " + json.dumps(row))


if __name__ == "__main__":
    main()
