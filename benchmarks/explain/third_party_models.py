"""What `third_party` knows of a model, the environments, and inputs in the expected range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Environment:
    """What is installed beside this checkout; versions that suit one family may not suit another.

    Attributes:
      packages: as pip takes them. alone: installed without what they ask for.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


ENVIRONMENTS = {
    "keras": Environment(("keras",)),
    "transformers": Environment(("transformers<5",)),  # 5 has no Flax
    # torchax 0.0.13 names operators that torch 2.13 does not have.
    "torchax": Environment(("torch==2.9.1", "torchvision==0.24.1", "torchax==0.0.13", "timm")),
    "jax": Environment(("dm-haiku", "equinox", "equimo", "mamba2-jax")),
    "recurrentgemma": Environment(("recurrentgemma[jax]",)),
    # pip does not come to an end over all that kauldron asks for; this is what the model imports.
    "gemma": Environment(
        (
            "chex", "clu", "einops", "etils[edc,enp,epath,epy,etree]", "grain", "immutabledict",
            "jaxtyping", "lark", "ml_collections", "packaging", "sentencepiece", "tensorflow",
            "treescope", "typeguard",
        ),
        alone=("gemma==3.3.0", "kauldron==1.4.2"),
    ),
}  # fmt: skip

#: fn, params, x, target.
Explained = tuple[Callable[[Any, Any], Any], Any, Any, Any]


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
      family, name: what it is. environment: a key of `ENVIRONMENTS`.
      packages: whose versions are told.
      glue: what else than the family's lines it needs, and what x is.
    """

    family: str
    name: str
    environment: str
    packages: tuple[str, ...]
    glue: str
    make: Callable[[], Explained]


def register(
    models: dict[str, Model],
    family: str,
    name: str,
    environment: str,
    packages: tuple[str, ...],
    glue: str,
) -> Callable[[Callable[[], Explained]], Callable[[], Explained]]:
    """A decorator that enters what makes a model into the models of a file."""

    def enter(make: Callable[[], Explained]) -> Callable[[], Explained]:
        models[f"{family}/{name}"] = Model(family, name, environment, packages, glue, make)
        return make

    return enter


def pixels(size: int, high: float = 1.0, channels_first: bool = False) -> Any:
    """Two pictures of coloured squares with some noise, in [0, high]."""
    import jax

    coarse, fine = (
        jax.random.uniform(jax.random.key(i), (2, n, n, 3)) for i, n in ((0, 8), (1, size))
    )
    images = high * (0.8 * jax.image.resize(coarse, fine.shape, "nearest") + 0.2 * fine)
    return images.transpose(0, 3, 1, 2) if channels_first else images


def sequence(length: int, features: int) -> Any:
    """Two sequences of standardised features, so of both signs."""
    import jax

    return jax.random.normal(jax.random.key(0), (2, length, features))


def tokens(length: int, vocabulary: int) -> Any:
    """Two sequences of token ids; 0 and 1, which often are special, do not occur."""
    import jax

    return jax.random.randint(jax.random.key(0), (2, length), 2, vocabulary)


def targets(*classes: int) -> Any:
    import jax.numpy as jnp

    return jnp.array(classes or (1, 2))
