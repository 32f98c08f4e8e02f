"""The command `compare`: several methods side by side on one photograph."""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np

from .. import maps, methods
from . import rule_sets
from .photo_question import COLUMNS, SCALE_NOTE, Announce, Asked, ask, measured

#: Standard deviation of the blur of pixel maps, as a share of the longer side.
BLUR = 0.02


def compare(arguments: argparse.Namespace, announce: Announce) -> str:
    """See `commands.compare`."""
    from ..maps import pictures

    chosen = [methods.get(name) for name in arguments.methods.split(",") if name.strip()]
    if not chosen:
        raise ValueError(f"--methods names none: {', '.join(methods.names())}")
    sets = rule_sets.chosen(arguments.rules_set)
    asked = ask(arguments, announce, "methods")
    logits, targets = jax.jit(asked.targets)(asked.network.variables, asked.images)
    scores = np.asarray(asked.network.scores(logits))[0]
    shown = [int(target) for target in targets[0]]

    found, lines = [], [f"{'method':24} {'compiled':>9} {'explained':>10}"]
    every = ((m, *own) for m in dict.fromkeys(chosen) for own in rule_sets.variants(m, sets))
    for method, _, ending, options in every:
        title = f"{method.title}{ending}"
        if method.per_layer and arguments.layer:
            options["layer"] = arguments.layer
        try:
            attention, compiling, running = measured(
                _explainer(asked, method, targets, options, not arguments.plain),
                asked.network.variables,
                asked.images,
                announce,
            )
        except ValueError as error:
            raise ValueError(f"{method.name} on {arguments.model}: {error}") from error
        found.append((title, np.asarray(attention), running))
        lines.append(f"{title:24} {compiling:7.2f} s {running:8.3f} s")
    announce("drawing")
    rows = []
    for k, target in enumerate(shown):
        panels = [asked.photograph] if k == 0 else []
        for title, attention, running in found:
            detail = f"{asked.name(target)}, {running:.3f} s"
            panels.append(asked.panel(attention[k], title, detail))
        rows += [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    headline = f"What does {arguments.model} look at for {', '.join(map(asked.name, shown))}?"
    note = (
        f"{SCALE_NOTE} Maps of pixels are blurred by {BLUR:.0%} of the side. Seconds are those of "
        "all classes together, once compiled."
    )
    pictures.write(pictures.figure(rows, headline, note), asked.out)
    wrote = f"wrote {asked.out.resolve()}"
    return "\n".join([*asked.ranking(scores, shown), "", *lines, wrote])


def _explainer(
    asked: Asked,
    method: methods.Method,
    targets: jax.Array,
    options: dict[str, Any],
    aligned: bool,
) -> Any:
    """The method's maps (K, *size) of the classes, as a function of variables and images.

    options: of the method. aligned: each cell where it looked.
    """
    if "layer" not in options and method.function in (methods.mwp, methods.c_mwp):
        options = {**options, "layer": asked.network.layer}
    bounds = {"x_bounds": asked.network.bounds} if method.bounded else {}

    def explain(variables: Any, images: jax.Array) -> jax.Array:
        apply = asked.network.apply
        found = method.function(apply, variables, images, targets, **options, **bounds)
        if found.shape[-2:] == images.shape[1:3]:  # a map of pixels is too fine to be seen
            found = maps.blur(found, BLUR * max(images.shape[1:3]))
        grid = method.grid(apply, variables, images, **options) if aligned else None
        return maps.resize(found[0], asked.size, grid)

    return explain
