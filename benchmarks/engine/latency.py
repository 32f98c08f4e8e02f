"""What an attention map costs beside a forward pass and an input gradient.

    python -m benchmarks.engine.latency --model resnet50 --batch 4 --json latency.json

One row each for the forward pass, the gradient to the pixels, MWP and c-MWP at a layer and at the
input, and K c-MWP maps an image. FLOPs and temporary memory are XLA's own figures; the predicted
FLOPs count F for a forward pass and F_up for the part of it above the layer. Wall times are of
jitted calls with the parameters as arguments; each row takes turns with the gradient, and the
last column is the median of the pairs' ratios, so that a slow minute of the machine hits both.
The gradient's own row shows what that leaves of the noise.

A contrastive map passes its top affine operation twice more than predicted (Eq. 8, 9): nothing
for a dense layer, something for SqueezeNet, whose last convolution is much of its F_up. On a CPU,
XLA's memory figure leaves out what its fused chains of convolutions use inside (VGG16's forward).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

# The networks are the test suite's.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from networks import ARCHITECTURES  # noqa: E402
from networks.torchvision import Tag  # noqa: E402

import excitation_jax as ej  # noqa: E402

IMAGE = (224, 224, 3)


@dataclass(frozen=True)
class Network:
    """A network with layers to read.

    Attributes:
        arch: its name in `networks.ARCHITECTURES`.
        layer: the layer that is read unless another is asked for.
        layers: names of the layers by the names under which the network tags them.
    """

    arch: str
    layer: str
    layers: Mapping[str, str]

    def model(self, tag: Tag) -> nn.Module:
        """The network, with `tag` called on each of its layers."""

        def named(x: jax.Array, name: str) -> jax.Array:
            return tag(x, self.layers[name]) if name in self.layers else x

        return ARCHITECTURES[self.arch](tag=named)


RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
VGG_LAYERS = {4: "pool1", 9: "pool2", 16: "pool3", 23: "pool4", 30: "pool5"}
SQUEEZENET_LAYERS = {6: "pool4", 7: "fire5", 11: "pool8", 12: "fire9"}

NETWORKS = {
    "resnet50": Network("resnet50", "layer3", {name: name for name in RESNET_LAYERS}),
    "vgg16": Network("vgg16", "pool4", {f"features.{i}": n for i, n in VGG_LAYERS.items()}),
    "squeezenet": Network(
        "squeezenet1_0", "pool8", {f"features.{i}": n for i, n in SQUEEZENET_LAYERS.items()}
    ),
}


@dataclass(frozen=True)
class Program:
    """One row: a function of (params, x, target).

    Attributes:
        flops: the predicted FLOPs, from F and F_up; `formula` says how.
        several: its targets are (N, K), not (N,).
    """

    name: str
    function: Callable[..., Any]
    formula: str
    flops: Callable[[float, float], float]
    several: bool = False


def programs(network: Network, layer: str, k: int) -> dict[str, Program]:
    """The rows of the table, by the keys that the JSON file has for them."""
    apply: Any = network.model(ej.tag).apply

    def forward(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return apply(params, x)

    def gradient(params: Any, x: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        def score(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = apply(params, x)
            return jnp.take_along_axis(logits, target[:, None], axis=1).sum(), logits

        slope, logits = jax.grad(score, has_aux=True)(x)
        return logits, slope

    def excitation(layer: str | None, contrastive: bool) -> Callable[..., jax.Array]:
        def mwp(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
            return ej.excitation_vjp(
                apply, params, x, target, layer=layer, contrastive=contrastive
            ).mwp

        return mwp

    def at_layer(f: float, up: float) -> float:
        return f + 2 * up

    def in_full(f: float, up: float) -> float:
        return 3 * f

    return {
        "forward": Program("forward", forward, "F", lambda f, up: f),
        "gradient": Program("input gradient", gradient, "2 F", lambda f, up: 2 * f),
        "mwp": Program(f"MWP at {layer}", excitation(layer, False), "F + 2 F_up", at_layer),
        "c-mwp": Program(f"c-MWP at {layer}", excitation(layer, True), "F + 2 F_up", at_layer),
        "mwp full": Program("MWP at full depth", excitation(None, False), "3 F", in_full),
        "c-mwp full": Program("c-MWP at full depth", excitation(None, True), "3 F", in_full),
        "k c-mwp": Program(
            f"{k} c-MWP at {layer}",
            excitation(layer, True),
            f"F + {k + 1} F_up",
            lambda f, up: f + (1 + k) * up,
            several=True,
        ),
    }


def forward_below(network: Network, layer: str) -> Program:
    """The forward pass up to a layer, whose FLOPs make F_up."""

    def function(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        found = {}

        def record(value: jax.Array, name: str) -> jax.Array:
            found[name] = value
            return value

        network.model(record).apply(params, x)
        return found[layer]

    return Program(f"forward to {layer}", function, "F - F_up", lambda f, up: f - up)


def abstract_arguments(
    network: Network, batch: int, k: int = 1, dtype: Any = jnp.float32, several: bool = False
) -> tuple[Any, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of (params, x, target)."""
    x = jax.ShapeDtypeStruct((batch, *IMAGE), dtype)
    params = jax.eval_shape(network.model(ej.tag).init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
    return params, x, jax.ShapeDtypeStruct((batch, k) if several else (batch,), jnp.int32)


@dataclass(frozen=True)
class Compiled:
    """A compiled program, and what XLA and the clock say of it."""

    call: Callable[..., Any]
    flops: float
    temporary_bytes: int
    lower_seconds: float
    compile_seconds: float


@contextlib.contextmanager
def without_persistent_cache() -> Iterator[None]:
    """A compiler's result from disk is not the compiler's time.

    JAX asks for the setting once in a process, and again only after a reset.
    """
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def compile_afresh(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Compiled:
    """Traces, lowers and compiles for these (abstract or concrete) arguments, with no cache."""
    jax.clear_caches()
    with without_persistent_cache():
        start = time.perf_counter()
        lowered = jax.jit(function).lower(*arguments)
        traced = time.perf_counter()
        compiled: Any = lowered.compile()
        done = time.perf_counter()
    return Compiled(
        compiled,
        compiled.cost_analysis()["flops"],
        compiled.memory_analysis().temp_size_in_bytes,
        traced - start,
        done - traced,
    )


def count_flops(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """FLOPs of a program by XLA's analysis of its CPU version.

    For a GPU, XLA makes library calls of convolutions and products before it counts, and does
    not see what is in them.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), arguments
    )
    return compile_afresh(function, shapes).flops


@dataclass
class Row:
    """The figures of one row; seconds are of every call, in the order in which they ran."""

    key: str
    name: str
    formula: str
    flops: float
    predicted_flops: float
    temporary_bytes: int
    lower_seconds: float
    compile_seconds: float
    wall_seconds: list[float] = field(default_factory=list)
    gradient_seconds: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Wall time over the gradient's: the median of the pairs' ratios."""
        pairs = zip(self.wall_seconds, self.gradient_seconds, strict=True)
        return statistics.median(wall / gradient for wall, gradient in pairs)

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's entries under `COLUMNS`."""
        return (
            self.name,
            f"{self.flops / 1e9:.2f}",
            f"{self.predicted_flops / 1e9:.2f}",
            self.formula,
            f"{self.temporary_bytes / 2**20:.1f}",
            f"{self.lower_seconds:.2f}",
            f"{self.compile_seconds:.2f}",
            f"{statistics.median(self.wall_seconds) * 1e3:.1f}",
            f"{self.ratio:.2f}",
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        median = statistics.median(self.wall_seconds)
        return {**vars(self), "median_wall_seconds": median, "ratio_to_gradient": self.ratio}


@dataclass
class Measurement:
    """All rows of one network; `flops_up` is F_up."""

    model: str
    layer: str
    parameters: int
    flops: float
    flops_up: float
    rows: list[Row] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "rows": [row.record() for row in self.rows]}


def seconds(call: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


def measure(
    name: str, layer: str, batch: int, k: int, dtype: Any, repeats: int
) -> Iterator[Measurement]:
    """Measures a network; yields the measurement before the first row and after each."""
    network = NETWORKS[name]
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, *IMAGE), dtype)
    params = jax.jit(network.model(ej.tag).init)(keys[1], x)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    targets = jax.random.randint(keys[2], (batch, k), 0, 1000)
    one, several = (params, x, targets[:, 0]), (params, x, targets)

    table = programs(network, layer, k)
    whole = count_flops(table["forward"].function, one)
    above = whole - count_flops(forward_below(network, layer).function, one)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    measurement = Measurement(name, layer, size, whole, above)
    yield measurement

    gradient = compile_afresh(table["gradient"].function, one).call
    seconds(gradient, one)
    for key, program in table.items():
        arguments = several if program.several else one
        made = compile_afresh(program.function, arguments)
        on_cpu = jax.default_backend() == "cpu"
        row = Row(
            key,
            program.name,
            program.formula,
            made.flops if on_cpu else count_flops(program.function, arguments),
            program.flops(whole, above),
            made.temporary_bytes,
            made.lower_seconds,
            made.compile_seconds,
        )
        seconds(made.call, arguments)
        for _ in range(repeats):
            row.gradient_seconds.append(seconds(gradient, one))
            row.wall_seconds.append(seconds(made.call, arguments))
        measurement.rows.append(row)
        yield measurement


COLUMNS = (
    ("row", 22), ("GFLOP", 9), ("predicted", 10), ("formula", 13), ("temp MiB", 9),
    ("lower s", 8), ("compile s", 10), ("wall ms", 9), ("/ gradient", 11),
)  # fmt: skip


def format_line(cells: tuple[str, ...]) -> str:
    """One line of the table: words to the left, numbers to the right."""
    aligned = (
        cell.ljust(width) if title == "row" else cell.rjust(width)
        for cell, (title, width) in zip(cells, COLUMNS, strict=True)
    )
    return " ".join(aligned)


def print_progress(measurement: Measurement) -> None:
    """Prints the network's heading, or its latest row."""
    if measurement.rows:
        print(format_line(measurement.rows[-1].cells), flush=True)
        return
    print(
        f"\n{measurement.model}, {measurement.parameters / 1e6:.1f} M parameters, read at "
        f"{measurement.layer}: F = {measurement.flops / 1e9:.2f} GFLOP, "
        f"F_up = {measurement.flops_up / 1e9:.2f}"
    )
    print(format_line(tuple(title for title, _ in COLUMNS)), flush=True)


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse_arguments() -> argparse.Namespace:
    """The command line; ends with a message where it makes no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "; ".join(f"{m}: {', '.join(n.layers.values())}" for m, n in NETWORKS.items())
    defaults = ", ".join(f"{n.layer} of {m}" for m, n in NETWORKS.items())
    parser.add_argument("--model", choices=[*NETWORKS, "all"], default="all")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="images (4)")
    parser.add_argument(
        "--targets", type=positive, default=20, metavar="K", help="maps an image, last row (20)"
    )
    parser.add_argument("--layer", metavar="NAME", help=f"{names} (default: {defaults})")
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="R", help="pairs of calls timed per row (5)"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here, too")
    options = parser.parse_args()
    options.models = list(NETWORKS) if options.model == "all" else [options.model]
    for model in options.models:
        if options.layer not in (None, *NETWORKS[model].layers.values()):
            parser.error(f"no layer {options.layer!r} in {model}; there are {names}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"no folder {options.json.absolute().parent} to write {options.json.name} to")
    try:
        jax.devices("cpu")
    except RuntimeError as error:
        parser.error(f"FLOPs are counted by XLA's CPU compiler, which is switched off: {error}")
    return options


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes under a temporary name, then renames: the file is whole or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Measures, prints a table row by row, and writes the JSON file after each network."""
    options = parse_arguments()
    device = jax.devices()[0]
    content: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device.device_kind,
        "platform": device.platform,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
        "excitation_jax": ej.__version__,
        "batch": options.batch,
        "targets": options.targets,
        "dtype": options.dtype,
        "repeats": options.repeats,
        "networks": [],
    }
    print(
        f"{content['date']}  {device.platform} ({device.device_kind}, {content['cpus']} CPU cores)"
        f"  jax {jax.__version__}  batch {options.batch}  K {options.targets}  {options.dtype}"
        f"  {options.repeats} repeats"
    )
    for model in options.models:
        layer = options.layer or NETWORKS[model].layer
        dtype = jnp.dtype(options.dtype)
        settings = (options.batch, options.targets, dtype, options.repeats)
        for measurement in measure(model, layer, *settings):
            print_progress(measurement)
        content["networks"].append(measurement.record())
        if options.json:
            write_json(options.json, content)


if __name__ == "__main__":
    main()
