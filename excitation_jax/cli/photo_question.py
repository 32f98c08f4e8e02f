"""What a command line asks of a photograph: the network, the classes, and where to draw."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from .. import maps
from .class_names import parse_target, read_class_names
from .networks import Network, network

if TYPE_CHECKING:
    from ..maps.pictures import Panel
    from .class_names import ClassName

COLUMNS = 4
SCALE_NOTE = "Each map is scaled to its own maximum: grey is no attention, yellow the most."
_PHOTO_SIDE = 384  # pixels of a panel's longer side

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """A question about a photograph.

    Attributes:
      network, images: the network, and its input (1, H, W, 3).
      names: of the classes, if given.
      top, index: explain the ``top`` classes of highest score, or, if that is None, this one.
      photograph: the panel of the photograph as the network sees it, of this size.
      out: the picture to write.
    """

    network: Network
    images: jax.Array
    names: Sequence[ClassName] | None
    top: int | None
    index: int | None
    photograph: Panel
    size: tuple[int, int]
    out: Path

    def targets(self, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The logits (1, C), and the classes to explain (1, K)."""
        logits = self.network.logits(self.network.apply(variables, images))
        chosen = jax.lax.top_k(logits, self.top)[1] if self.top else jnp.array([[self.index]])
        return logits, chosen

    def name(self, target: int) -> str:
        """Of a class, or its index."""
        return self.names[target].name if self.names else f"class {target}"

    def panel(self, attention: Any, title: str, detail: str) -> Panel:
        """The photograph without its colours, with a map of its size over it."""
        from ..maps import pictures

        painted = maps.overlay(pictures.greyed(self.photograph.image), attention)
        return pictures.Panel(painted, title, detail)

    def ranking(self, scores: NDArray[Any], targets: Any) -> list[str]:
        """Lines with the best classes and those explained."""
        explained = {int(target) for target in targets}
        order = [int(i) for i in np.argsort(-scores)]
        lines = ["  index   score  class  (* = explained)"]
        for i in sorted({*order[:5], *explained}, key=order.index):
            mark = "*" if i in explained else " "
            named = self.names[i].name if self.names else i
            lines.append(f"{mark} {i:5d}  {scores[i]:6.4f}  {named}")
        return lines


def ask(arguments: argparse.Namespace, announce: Announce, suffix: str) -> Asked:
    """What the arguments of `commands.explain` ask.

    Args:
      suffix: of the picture's name, where the arguments give none.

    Raises:
      ValueError, OSError, ImportError: as `commands.explain`.
    """
    from ..maps import pictures

    out = arguments.out or Path(f"{arguments.photo.stem}_{suffix}.png")
    pictures.check_writable(out)
    photo = pictures.read_photograph(arguments.photo)
    if out.exists() and out.samefile(arguments.photo):
        raise ValueError(f"{out} is the photograph itself: give another --out")
    names = read_class_names(arguments.classes) if arguments.classes else None

    announce(f"loading {arguments.model}")
    asked = network(arguments.model, arguments.weights, whole=arguments.whole)
    images = asked.prepare(photo)
    count = jax.eval_shape(asked.apply, asked.variables, images).shape[-1]
    if names and len(names) != count:
        raise ValueError(
            f"{arguments.classes} names {len(names)} classes, {arguments.model} has {count}"
        )
    top, index = parse_target(arguments.target, names, count)
    view = asked.view(photo)
    size = pictures.fitted_size(view, _PHOTO_SIDE)
    base = np.asarray(view.resize(size[::-1]))
    photograph = pictures.Panel(base, "photograph", arguments.photo.name)
    return Asked(asked, images, names, top, index, photograph, size, out)


def measured(
    function: Callable[[Any, Any], Any], variables: Any, images: jax.Array, announce: Announce
) -> tuple[Any, float, float]:
    """function(variables, images) under jit, and the seconds that compiling and running took."""
    announce("compiling")
    start = time.perf_counter()
    compiled = jax.jit(function).lower(variables, images).compile()
    middle = time.perf_counter()
    announce("explaining")
    result = jax.block_until_ready(compiled(variables, images))
    return result, middle - start, time.perf_counter() - middle


def timed(
    function: Callable[[Any, Any], Any], variables: Any, images: jax.Array, announce: Announce
) -> tuple[Any, str]:
    """function(variables, images) under jit, and a line on how long compiling and running took."""
    result, compiling, running = measured(function, variables, images, announce)
    return result, f"compiled in {compiling:.2f} s (once), explained in {running:.3f} s"
