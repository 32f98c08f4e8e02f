"""Layer randomisation: do the maps depend on what the network has learned?

    python -m benchmarks.explain.sanity_check [--squeezenet WEIGHTS.npz FOLDER]
        [--cifar WEIGHTS.npz IMAGES.npz] [--images 30] [--draws 3] [--mode independent]
        [--plot FILE]

The weights are redrawn block by block from the output down, and each map's rank correlation with
its original is averaged over draws and over images that the network recognises. On the digits
model, which needs no file; on SqueezeNet with a folder of photographs named <class
index>_<anything>.jpg; on the CIFAR-10 ResNet-20 with a file of images x (uint8) and classes y.
The gradient's map is at the pixels; beside maps at layer="auto" it is resized to theirs.

"no map" is the share of constant maps, which have no rank correlation and are left out: with
redrawn weights, a class may have no positive score anywhere (SqueezeNet ends in a ReLU).

To compare with, in the trained network:
- other class: the rank correlation of the maps of an image's class and of another. What they
  have in common comes from the image, not from the class.
- pixels alone: that of the map at the input and the positive part of the input itself, by which
  Eq. 6 multiplies.
- cosine: of the marginal winning probabilities of these two classes, all channels and positions,
  at the end of each block. Sixt et al. 2020 measure so how much of the class is left.
- rest: half the sum of |c-MWP| there, which is what differs between the MWP of the class and that
  of its negated classifier. Where both have become the same, 0.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej
from benchmarks.explain.compared import methods
from benchmarks.explain.grid_pointing import recognised
from excitation_jax import digits, maps
from excitation_jax.explain.randomisation import (
    RandomisationCheck,
    randomisation_check,
    rank_correlation,
)
from excitation_jax.models import cifar_resnet, squeezenet

CONFIDENCE = 0.8
METHODS = ("gradient", "MWP", "c-MWP")
LAYERS = {"auto": "auto", "input": None}


@dataclass(frozen=True)
class Network:
    """A network, images (N, H, W, 3) that it recognises, and their classes (N,).

    Attributes:
        auto: the layer that layer="auto" reads.
        above: how many groups lie above it.
        groups: patterns of parameters, from the output down, by the names that are shown.
        blocks: the layers where the cosine is measured, from the output down.
    """

    name: str
    model: nn.Module
    params: Any
    images: jax.Array
    classes: jax.Array
    auto: str
    above: int
    groups: dict[str, str]
    blocks: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What one method gave at one layer; the references are (N,), None where there is none."""

    check: RandomisationCheck
    other_class: np.ndarray
    pixels_alone: np.ndarray | None


def digits_model(count: int) -> Network:
    """The digits model on scenes; the class is the digit in the scene with the highest score."""
    model, params = digits.load()
    scenes = digits.make_scenes(0, count, "test")
    scores = np.where(scenes.labels > 0, model.apply(params, scenes.images), -np.inf)
    blocks = [
        "stage3_block2",
        "stage3_block1",
        "stage2_block2",
        "stage2_block1",
        "stage1_block1",
        "stem",
    ]
    return Network(
        "digits model",
        model,
        params,
        jnp.asarray(scenes.images),
        jnp.asarray(scores.argmax(-1)),
        "stage3_block1",
        2,
        {name: name for name in ("head", *blocks)},
        blocks,
    )


def resnet20(count: int, weights: Path, file: Path) -> Network:
    """ResNet-20 on the first of the CIFAR images that it recognises."""
    model, params = cifar_resnet.CifarResNet(20), cifar_resnet.load_npz(weights, 20)
    with np.load(file, allow_pickle=False) as arrays:
        images, classes = cifar_resnet.preprocess(arrays["x"]), arrays["y"]
    probabilities = jax.nn.softmax(jax.jit(model.apply)(params, images))
    sure = np.asarray(probabilities)[np.arange(len(classes)), classes] > CONFIDENCE
    chosen = np.flatnonzero(sure)[:count]
    blocks = [f"layer{stage}_{block}" for stage in (3, 2, 1) for block in (2, 1, 0)]
    groups = {name: name for name in ("linear", *blocks)} | {"conv1, bn1": "*1"}
    return Network(
        "ResNet-20",
        model,
        params,
        images[chosen],
        jnp.asarray(classes[chosen]),
        "layer3_1",
        2,
        groups,
        blocks,
    )


def squeezenet_v1_0(count: int, weights: Path, folder: Path) -> Network:
    """SqueezeNet on photographs, evenly spaced among those that it recognises."""
    model, params = squeezenet.SqueezeNet(), squeezenet.load_npz(weights)
    images, classes = recognised(model, params, squeezenet.preprocess, folder, CONFIDENCE)
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    fires = [f"fire{i}" for i in range(8, 1, -1)]
    # The layer lies inside fire9, so that is two groups.
    groups = {
        "conv_final": "conv_final",
        "fire9, upper": "fire9/conv?x?_2",
        "fire9, lower": "fire9",
        **{name: name for name in fires},
        "conv1": "conv1",
    }
    return Network(
        "SqueezeNet",
        model,
        params,
        jnp.asarray(images[chosen]),
        jnp.asarray(classes[chosen]),
        "fire9/relu",
        2,
        groups,
        ["fire9", "fire9/relu", "pool8", *fires, "pool1"],
    )


def map_functions(
    model: nn.Module, layer: str | None, size: tuple[int, ...]
) -> dict[str, Callable[..., jax.Array]]:
    """By method: map_fn(params, images, classes) -> (N, H, W); the gradient's has this size."""

    @jax.jit
    def gradient(params: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
        found = methods(model.apply, params, "auto")["gradient"](images, classes[:, None])[:, 0]
        return maps.resize(found, size) if found.shape[1:] != size else found

    def excitation(contrastive: bool) -> Callable[..., jax.Array]:
        def map_fn(params: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
            mwp = ej.excitation_vjp(
                model.apply, params, images, classes, layer=layer, contrastive=contrastive
            ).mwp.sum(-1)
            return jnp.maximum(mwp, 0) if contrastive else mwp

        return map_fn

    return {"gradient": gradient, "MWP": excitation(False), "c-MWP": excitation(True)}


def other_classes(network: Network) -> jax.Array:
    """For each image a class that is half the list of classes away from its own."""
    count = network.model.apply(network.params, network.images[:1]).shape[-1]
    return (network.classes + count // 2) % count


def outcomes(network: Network, layer: str | None, draws: int, mode: str) -> dict[str, Outcome]:
    """By method, at one layer."""
    model, params, images = network.model, network.params, network.images
    table = ej.layers(model.apply, params, images)
    assert table.auto is not None and table.auto.name == network.auto
    size = images.shape[1:3] if layer is None else table.auto.shape[1:3]
    found = {}
    for method, map_fn in map_functions(model, layer, size).items():
        check = randomisation_check(
            model.apply,
            params,
            images,
            network.classes,
            map_fn=map_fn,
            mode=mode,
            draws=draws,
            groups=list(network.groups.values()),
        )
        other = map_fn(params, images, other_classes(network))
        pixels = np.maximum(images, 0).sum(-1)
        found[method] = Outcome(
            check,
            rank_correlation(check.original, other),
            rank_correlation(check.original, pixels) if layer is None else None,
        )
    return found


def convergence(network: Network) -> dict[str, tuple[float, float]]:
    """By block: the cosine of two classes' MWPs, and the rest; means over the images."""
    model, params, images = network.model, network.params, network.images
    count = len(images)
    both = jnp.stack([network.classes, other_classes(network)], axis=1)

    def mwps(target: jax.Array, contrastive: bool) -> dict[str, np.ndarray]:
        at_blocks, at_input = (
            ej.excitation_vjp(
                model.apply, params, images, target, layer=layer, contrastive=contrastive
            ).mwp
            for layer in (network.blocks, None)
        )
        return {name: np.asarray(mwp) for name, mwp in {**at_blocks, "input": at_input}.items()}

    contrasts = mwps(network.classes, True)
    found = {}
    for block, mwp in mwps(both, False).items():
        first, second = mwp.reshape(count, 2, -1).swapaxes(0, 1)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        rest = np.abs(contrasts[block]).reshape(count, -1).sum(1) / 2
        found[block] = float(((first * second).sum(1) / norms).mean()), float(rest.mean())
    return found


def report(network: Network, found: dict[str, dict[str, Outcome]]) -> str:
    """Markdown: rank correlations, mean and standard deviation, of all methods at both layers."""
    columns = [found[layer][method] for layer in LAYERS for method in METHODS]
    titles = [f"{method}, {layer}" for layer in LAYERS for method in METHODS]
    rows = [
        (name, [outcome.check.rank_correlation[:, stage] for outcome in columns])
        for stage, name in enumerate(network.groups)
    ]
    rows.append(("*other class*", [outcome.other_class for outcome in columns]))
    rows.append(("*pixels alone*", [outcome.pixels_alone for outcome in columns]))

    def cell(values: np.ndarray | None) -> str:
        return "" if values is None else f"{np.nanmean(values):.2f} ({np.nanstd(values):.2f})"

    lines = [
        f"| {network.name} | {' | '.join(titles)} | no map |",
        "|---" * (2 + len(titles)) + "|",
    ]
    for name, values in rows:
        missing = np.mean([np.isnan(part).mean() for part in values if part is not None])
        lines.append(f"| {name} | {' | '.join(map(cell, values))} | {missing:.0%} |")
    return "\n".join(lines)


def plot(path: Path, results: list[tuple[Network, dict[str, dict[str, Outcome]]]]) -> None:
    """The networks beside each other, the maps at the layer above those at the input."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4.0 * len(results), 8.6), layout="constrained")
    grid = figure.subplots(len(LAYERS), len(results), sharey=True, squeeze=False)
    for i, (network, found) in enumerate(results):
        for axes, layer in zip(grid[:, i], LAYERS, strict=True):
            for method, outcome in found[layer].items():
                outcome.check.plot(axes, label=method)
                colour, other = axes.lines[-1].get_color(), np.nanmean(outcome.other_class)
                axes.axhline(other, color=colour, linestyle=":", linewidth=1.2)
            axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
            axes.set_title(f"{network.name}, map at {network.auto if layer == 'auto' else layer}")
            axes.set_xticks(range(1 + len(network.groups)), ["(none)", *network.groups])
            axes.set_xlim(-0.3, len(network.groups) + 0.3)
            axes.set(xlabel="", ylabel="" if i else "rank correlation with the original")
            if layer == "auto":
                axes.axvspan(network.above + 0.5, len(network.groups) + 0.3, color="0.93", zorder=0)
    axes = grid[0, 0]
    handles, labels = axes.get_legend_handles_labels()
    handles += [axes.plot([], [], color="0.3", linestyle=":")[0], axes.patches[0]]
    labels += ["another class", "the layer itself changes"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("weights redrawn down to")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--squeezenet", type=Path, nargs=2, metavar=("WEIGHTS", "FOLDER"))
    parser.add_argument("--cifar", type=Path, nargs=2, metavar=("WEIGHTS", "IMAGES"))
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--mode", choices=("cascading", "independent"), default="cascading")
    parser.add_argument("--plot", type=Path, help="write the curves here")
    options = parser.parse_args()
    networks = [digits_model(options.images)]
    if options.cifar:
        networks.append(resnet20(options.images, *options.cifar))
    if options.squeezenet:
        networks.append(squeezenet_v1_0(options.images, *options.squeezenet))
    print(
        f"{datetime.date.today()}, jax {jax.__version__}, {options.mode}, {options.images} images, "
        f"{options.draws} draws"
    )
    results = []
    for network in networks:
        found = {
            name: outcomes(network, layer, options.draws, options.mode)
            for name, layer in LAYERS.items()
        }
        results.append((network, found))
        print(f"\n{report(network, found)}\n\n| {network.name} | cosine | rest |\n|---|---|---|")
        for block, (cosine, rest) in convergence(network).items():
            print(f"| {block} | {cosine:.2f} | {rest:.2f} |", flush=True)
    if options.plot:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
