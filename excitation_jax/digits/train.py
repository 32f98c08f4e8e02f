"""Trains the demo model, as `python -m excitation_jax.digits --out DIR` does.

Takes about six and a half minutes of CPU time, and keeps two cores busy. Every step sees new
scenes; the model is judged by its mean average precision on scenes composed from digits that
training never shows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from numpy.typing import ArrayLike, NDArray

from .model import DigitsNet
from .scenes import SIDE, make_scenes

STEPS = 1200
BATCH = 32  # scenes a step
PEAK_LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-3

_SCENE_SEEDS = 1_000_000  # seeds of `make_scenes` set aside for one training run

Variables = dict[str, Any]


def train(
    steps: int = STEPS,
    seed: int = 0,
    on_step: Callable[[int, jax.Array], None] | None = None,
    model: DigitsNet | None = None,
) -> Variables:
    """Trains `DigitsNet` from random weights on scenes of the train split.

    AdamW under a one-cycle schedule, on the sigmoid cross-entropy of the ten classes.

    Args:
        steps: number of steps, of 32 new scenes each.
        seed: fixes the initial weights and the scenes. One machine gives one result a seed.
        on_step: called after each step with the number of steps taken and the scalar loss,
            which may still be under way: reading it waits.
        model: the network, if not the plain one.

    Returns:
        {"params": ..., "batch_stats": ...}.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: `steps` is not in 1..1000000 or `seed` is negative.
    """
    if not 1 <= steps <= _SCENE_SEEDS:
        raise ValueError(f"steps must be in 1..{_SCENE_SEEDS}, got {steps}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    model = model or DigitsNet()
    schedule = optax.cosine_onecycle_schedule(steps, PEAK_LEARNING_RATE, pct_start=0.2)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)

    @jax.jit
    def step(
        variables: Variables, state: optax.OptState, images: jax.Array, labels: jax.Array
    ) -> tuple[Variables, optax.OptState, jax.Array]:
        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), updated

        (loss, updated), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradient, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, state, loss

    variables: Variables = dict(model.init(jax.random.key(seed), jnp.zeros((1, SIDE, SIDE, 3))))
    state = optimizer.init(variables["params"])
    for taken in range(1, steps + 1):
        # JAX returns before a step is done, so the next scenes are composed meanwhile.
        scenes = make_scenes(seed * _SCENE_SEEDS + taken - 1, BATCH, "train")
        variables, state, loss = step(variables, state, scenes.images, scenes.labels)
        if on_step is not None:
            on_step(taken, loss)
    return variables


def predict(
    variables: Variables, images: ArrayLike, batch: int = 100, model: DigitsNet | None = None
) -> NDArray[np.float32]:
    """Logits (N, 10) of images (N, 96, 96, 3), computed `batch` images at a time."""
    forward = jax.jit((model or DigitsNet()).apply)
    images = np.asarray(images)
    logits = [forward(variables, images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate(logits)


def save(variables: Variables, out: Path) -> None:
    """Writes an Orbax checkpoint that `excitation_jax.digits.load` reads.

    `out` appears complete or not at all: everything is written beside it and then renamed.

    Args:
        variables: what `train` returned.
        out: the checkpoint's directory; missing parents are made.

    Raises:
        FileExistsError: `out` exists and is not an empty directory.
    """
    out = out.resolve()
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # NumPy arrays, because a jax.Array would have this machine's devices recorded with it.
    arrays = jax.tree.map(np.asarray, variables)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as directory:
        written = Path(directory) / "checkpoint"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(written, arrays)
        os.replace(written, out)


def check_free(out: Path) -> None:
    """Raises FileExistsError if `out` exists and is not an empty directory."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists: remove it or choose another --out")
