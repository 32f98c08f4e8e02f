"""Layer randomisation: does a map depend on what the network has learned?

The check of Adebayo et al. ("Sanity checks for saliency maps", NeurIPS 2018): redraw the weights of
the layers, from the output downwards, and compare the map with the original one. A map that stays
as it was does not depend on what those layers have learned. Sixt, Granz and Landgraf ("When
explanations lie", ICML 2020) found that of several methods that change the backward pass,
Excitation Backprop among them. What it shows for this library's maps: docs/sanity_check.md.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..maps.similarity import rank_correlation, structural_similarity
from ..rules.ruleset import EXCITATION, RuleSet
from .calls import attention_map
from .parameter_groups import Leaf, members_of, parameter_groups
from .targets import Target
from .top_down import check_input

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mode = Literal["cascading", "independent"]
Measure = Literal["rank_correlation", "structural_similarity"]
MapFunction = Callable[[Any, Any, Any], Any]
Redraw = Callable[[jax.Array, jax.Array, str], Any]

_TITLES = {
    "rank_correlation": "rank correlation",
    "structural_similarity": "structural similarity",
}


@dataclass(frozen=True, eq=False)
class RandomisationCheck:
    """Result of `randomisation_check`; prints as a table of means and standard deviations.

    Attributes:
      stages: S names of parameter groups, from the output down. In "cascading" mode the weights
        of a stage and of all before it are redrawn, in "independent" mode its own alone.
      mode: which of the two.
      rank_correlation, structural_similarity: float64 (draws, S, N), or (draws, S, N, K) for K
        targets; of each example's map to its original. A rank correlation is NaN where one of
        the maps is constant.
      original: the maps of the network as it is, (N, H, W) or (N, K, H, W).
    """

    stages: tuple[str, ...]
    mode: Mode
    rank_correlation: NDArray[np.float64]
    structural_similarity: NDArray[np.float64]
    original: NDArray[Any] = field(repr=False)

    def summary(
        self, measure: Measure = "rank_correlation"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each stage (S,), over draws and examples.

        NaNs are left out; where there is nothing else, the result is NaN.
        """
        if measure not in _TITLES:
            raise ValueError(f"measure must be one of {', '.join(_TITLES)}, not {measure!r}")
        values = np.ma.masked_invalid(getattr(self, measure))
        axes = (0, *range(2, values.ndim))
        return values.mean(axes).filled(np.nan), values.std(axes).filled(np.nan)

    def plot(
        self, where: str | os.PathLike[str] | Axes, *, measure: Measure = "rank_correlation",
        label: str | None = None,
    ) -> Axes:  # fmt: skip
        """Draws the similarity against the stages: the mean, and a band of one standard deviation.

        Args:
          where: the file to write, in the format that its suffix names; or matplotlib's axes, to
            which one line is added, so that several results can share them.
          measure: the attribute that is drawn.
          label: of the line, for a legend.

        Raises:
          ImportError: a file is asked for and matplotlib is not installed.
        """
        if isinstance(where, (str, os.PathLike)):
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise ImportError(
                    'the plot needs matplotlib: pip install "excitation-jax[plots]"',
                    name=error.name,
                ) from error
            # Inches, so that the stages' names fit side by side and leave the axes their height.
            size = (2.5 + 0.28 * len(self.stages), 3.8 + 0.09 * max(map(len, self.stages)))
            figure = Figure(figsize=size, layout="constrained")
            axes = self.plot(figure.add_subplot(), measure=measure, label=label)
            if label is not None:
                axes.legend()
            figure.savefig(where, dpi=150)
            return axes
        # The network as it is comes first: its maps are the originals.
        mean, spread = (
            np.insert(part, 0, start)
            for start, part in zip((1.0, 0.0), self.summary(measure), strict=True)
        )
        places = np.arange(len(mean))
        (line,) = where.plot(places, mean, marker=".", label=label)
        where.fill_between(
            places, mean - spread, mean + spread, color=line.get_color(), alpha=0.1, linewidth=0
        )
        where.set_xticks(places, ["(none)", *self.stages], rotation=90)
        where.set_xlabel(f"weights redrawn {'down to' if self.mode == 'cascading' else 'in'}")
        where.set_ylabel(f"{_TITLES[measure]} with the original")
        return where

    def __str__(self) -> str:
        columns = [["stage", *self.stages]]
        for measure in ("rank_correlation", "structural_similarity"):
            figures = zip(*self.summary(measure), strict=True)
            columns.append([_TITLES[measure], *(f"{m:6.3f} +- {s:.3f}" for m, s in figures)])
        shares = np.isnan(self.rank_correlation).swapaxes(0, 1).reshape(len(self.stages), -1)
        if shares.any():
            columns.append(["constant maps", *(f"{share:.0%}" for share in shares.mean(1))])
        widths = [max(map(len, column)) for column in columns]
        rows = zip(*columns, strict=True)
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def permute(key: jax.Array, array: jax.Array, path: str) -> jax.Array:
    """The default ``redraw``: an array's own values in a random order.

    What was learned is gone; the values' distribution stays: their scale, signs and zeros.
    """
    return jax.random.permutation(key, array.reshape(-1)).reshape(array.shape)


def randomisation_check(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    contrastive: bool = True,
    rules: RuleSet = EXCITATION,
    map_fn: MapFunction | None = None,
    mode: Mode = "cascading",
    groups: Sequence[str] | None = None,
    redraw: Redraw = permute,
    draws: int = 1,
    key: jax.Array | None = None,
) -> RandomisationCheck:
    """How similar a map stays to the original while the network's weights are redrawn.

    Args:
      model_fn, params, x, target, contrastive, rules: as in `excitation_jax.attention_map`.
      layer: where the map is read: a name, "auto", or None for the input.
      map_fn: ``map_fn(params, x, target) -> (N, H, W)`` or (N, K, H, W), to check another map in
        place of the attention map; ``layer``, ``contrastive`` and ``rules`` are then not given. It
        is called once for each stage and draw: jit it.
      mode: "cascading" redraws the groups one after the other and keeps them redrawn,
        "independent" redraws one group at a time in the trained network.
      groups, redraw: see `randomised`.
      draws: how often all of it is repeated with other random numbers.
      key: a `jax.random.key`; ``key(0)`` unless given.

    Returns:
      The similarities, for each draw, stage and example. The model is compiled once.

    Raises:
      As `attention_map` and `randomised`, and ValueError where a map is not finite or not (N, ...,
      H, W).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from excitation_jax.explain.randomisation import randomisation_check
      >>> def model(w, x):
      ...     x = jax.nn.relu(jax.lax.conv(x, w["conv"], (1, 1), "SAME"))
      ...     return x.mean((2, 3)) @ w["head"]
      >>> keys = jax.random.split(jax.random.key(1), 3)
      >>> w = {"conv": jax.random.normal(keys[0], (8, 3, 3, 3)),
      ...      "head": jax.random.normal(keys[1], (8, 5))}
      >>> x = jax.random.uniform(keys[2], (2, 3, 12, 12))
      >>> result = randomisation_check(model, w, x, 0, layer=None)
      >>> result.stages, result.rank_correlation.shape
      (('head', 'conv'), (1, 2, 2))
    """
    if map_fn is None:
        check_input(params, x)
        options: dict[str, Any] = {"layer": layer, "contrastive": contrastive, "rules": rules}
        # Traced once, for all stages and draws.
        explain: Callable[[Any], Any] = jax.jit(
            lambda params: attention_map(model_fn, params, x, target, **options)
        )
    elif (layer, contrastive, rules) != ("auto", True, EXCITATION):
        raise ValueError(
            "layer, contrastive and rules belong to the attention map: not with map_fn"
        )
    else:
        explain = functools.partial(_of_params, map_fn, x, target)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if groups is None:
        groups = parameter_groups(model_fn, params, x)
    runs = [
        randomised(model_fn, params, x, mode=mode, groups=groups, redraw=redraw, key=draw)
        for draw in jax.random.split(jax.random.key(0) if key is None else key, draws)
    ]
    original = _finite(explain(params), "of the network as it is")
    correlations, similarities = [], []
    for run in runs:
        for stage, redrawn in run:
            found = _finite(explain(redrawn), f"after redrawing {stage}")
            correlations.append(rank_correlation(original, found))
            similarities.append(structural_similarity(original, found))
    stages = tuple(dict.fromkeys(groups))
    shape = (draws, len(stages), *original.shape[:-2])
    return RandomisationCheck(
        stages, mode, np.reshape(correlations, shape), np.reshape(similarities, shape), original
    )


def _of_params(map_fn: Callable[..., Any], x: Any, target: Target, params: Any) -> Any:
    return map_fn(params, x, target)


def randomised(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    mode: Mode = "cascading",
    groups: Sequence[str] | None = None,
    redraw: Redraw = permute,
    key: jax.Array | None = None,
) -> Iterator[tuple[str, Any]]:
    """The stages of `randomisation_check`, for measures and pictures of one's own.

    Args:
      model_fn, params, x: the model; it is traced, and only where no groups are given.
      mode, key: as in `randomisation_check`.
      groups: which parameters are redrawn together, from the output down: paths as those of
        `parameter_groups`, or patterns ("layer3_*"), each standing for all that lies below. A
        parameter belongs to the first group that matches it; one that none matches keeps its
        values. The default is ``parameter_groups(model_fn, params, x)``.
      redraw: ``redraw(key, array, path) -> array`` of the same shape and dtype; the path is the
        parameter's own ("params/conv1/kernel"). Every floating-point array of a group is redrawn,
        a BatchNorm's running mean and variance, too: they come from training, and which channel
        has which is part of what was learned. To keep them, return them unchanged ("batch_stats"
        is in their path).

    Returns:
      An iterator of (name of the group, params), one for each group. A parameter's new values
      depend only on the key and its place in ``params``: they are the same in both modes.

    Raises:
      ValueError: a group without parameters, an unknown mode, a redraw that changes shape or
        dtype.
    """
    if mode not in ("cascading", "independent"):
        raise ValueError(f'mode must be "cascading" or "independent", not {mode!r}')
    if isinstance(groups, str):
        raise TypeError(f"groups must be a sequence of names, not the string {groups!r}")
    members = members_of(
        params, parameter_groups(model_fn, params, x) if groups is None else groups
    )
    return _stages(params, members, mode, redraw, jax.random.key(0) if key is None else key)


def _finite(found: Any, when: str) -> NDArray[Any]:
    array = np.asarray(found)
    if array.ndim < 3:
        raise ValueError(f"map_fn must return maps (N, height, width), and returned {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"the map {when} is not finite")
    return array


def _stages(
    params: Any, members: Mapping[str, Sequence[Leaf]], mode: Mode, redraw: Redraw, key: jax.Array
) -> Iterator[tuple[str, Any]]:
    trained, tree = jax.tree.flatten(params)
    current = list(trained)
    for name, leaves in members.items():
        if mode == "independent":
            current = list(trained)
        for leaf in leaves:
            old = jnp.asarray(trained[leaf.index])
            new = redraw(jax.random.fold_in(key, leaf.index), old, leaf.path)
            if (jnp.shape(new), jnp.result_type(new)) != (old.shape, old.dtype):
                raise ValueError(
                    f"redraw returned {jnp.result_type(new)} {jnp.shape(new)} for {leaf.path}, "
                    f"which is {old.dtype} {old.shape}"
                )
            current[leaf.index] = new
        yield name, jax.tree.unflatten(tree, current)
