"""Training of a network's output layer for several labels, as the papers did it.

Zhang et al. (IJCV18, Sec. 6) replace the classifier of a network that knows ImageNet by one for the
classes of a data set in which an image shows several, and train only that: the cross-entropy of
each class's sigmoid, by stochastic gradient descent.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..data.run_directory import setting
from .checkpoints import Checkpoints, State, configuration_of, digest
from .input import training_batches
from .labelled import Record
from .output_layer import Variables, check_shapes, layer_of, with_layer
from .scoring import BATCH, RESIZED, minus_one_to_one, precision_of, predict

SAVE_EVERY = 10  # steps

Step = Callable[[Variables, Any, Any, Any, Any], tuple[Any, Any, jax.Array]]


def fine_tune(
    model: nn.Module,
    variables: Any,
    records: Sequence[Record],
    *,
    steps: int,
    batch: int = BATCH,
    seed: int = 0,
    size: int = 224,
    resized: int = RESIZED,
    normalise: Callable[[jax.Array], jax.Array] = minus_one_to_one,
    output_layer: str = "logits",
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    directory: str | os.PathLike[str] | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
    save_every: int = SAVE_EVERY,
    validation: Sequence[Record] | None = None,
    validate_every: int | None = None,
    on_step: Callable[[int, float, float | None], None] | None = None,
) -> Variables:
    """The variables with a trained output layer; everything else is as it was.

    The loss is the sigmoid cross-entropy, summed over the classes and averaged over the batch, as
    in Caffe, which the papers used. (Averaged over the classes, too, a learning rate would count
    that many times less.) Photographs are mirrored to a square, resized, cropped at random and
    flipped in half of the cases.

    The result depends on the arguments only. With a `directory`, a run that was interrupted at any
    point, be it by SIGKILL, continues when it is called again, and ends with the same bits as one
    that was not, on the same machine with the same versions.

    Args:
        model: a Flax Linen module; `model.apply(variables, x)` is inference, logits (N, classes).
        variables: {"params": ..., ...}, see `new_output_layer`.
        records: what to train with, see `read_voc` and `read_coco`.
        steps: to take in all, those before an interruption included.
        batch: photographs a step.
        seed: of the order, the crops and the flips.
        size: side of the network's input.
        resized: side of the square that is cropped.
        normalise: uint8 (N, size, size, 3) in RGB -> the network's input.
        output_layer: the layer's name in variables["params"]; "a/b" is the b in a.
        learning_rate: of the gradient descent.
        momentum: of the gradient descent.
        directory: for checkpoints. It belongs to this run alone. None keeps nothing.
        given: what a user gave for some of these arguments, such as {"records": {"--voc": "VOC"}},
            to name it where the directory holds another run.
        save_every: steps between checkpoints; the last step has one, too.
        validation: records to measure the mean average precision with.
        validate_every: steps between measurements; the last step has one in any case.
        on_step: called after each step with the number of steps taken, the loss and the mean
            average precision, which is None where it was not measured.

    Raises:
        ValueError: a number is out of its range; the output layer is missing or has not the shape
            that the model needs; the labels are not as many as the logits; no class occurs in
            `validation`; the directory holds more than `steps` steps or a damaged checkpoint; a
            photograph is damaged.
        FileExistsError: the directory holds another run, or something else.
        FloatingPointError: the loss is infinite or NaN.
    """
    _check_numbers(steps, batch, seed, size, resized, save_every, validate_every)
    variables = flax.core.unfreeze(variables)
    classes = check_shapes(model, variables, size, output_layer)
    _check_records(records, classes, "to train with")
    measure = None
    if validation is not None:
        _check_records(validation, classes, "for validation")
        precision_of(validation, np.zeros((len(validation), classes)))  # now, not after training
        measure = functools.partial(
            predict,
            model,
            records=validation,
            batch=batch,
            size=size,
            resized=resized,
            normalise=normalise,
        )

    optimizer = optax.sgd(learning_rate, momentum)
    step = _step(model, optimizer, normalise, output_layer)
    head = jax.tree.map(jnp.asarray, layer_of(variables, output_layer))
    with contextlib.ExitStack() as stack:
        batches = training_batches(records, batch=batch, seed=seed, size=size, resized=resized)
        stack.callback(batches.close)
        taken, now = 0, State(head, optimizer.init(head), batches.get_state())
        checkpoints = None
        if directory is not None:
            configuration = {
                "output_layer": output_layer,
                "batch": batch,
                "seed": seed,
                "size": size,
                "resized": resized,
                "normalise": getattr(normalise, "__qualname__", type(normalise).__qualname__),
                "learning_rate": float(learning_rate),
                "momentum": float(momentum),
                "variables": digest(variables),
                # Names, not paths: a data set may move before a run is continued.
                "records": digest([(_letters(r.path.name), r.labels) for r in records]),
            }
            named = {key: setting(own, configuration[key]) for key, own in (given or {}).items()}
            checkpoints = stack.enter_context(Checkpoints(directory, {**configuration, **named}))
            taken, now = checkpoints.latest(now) or (taken, now)
            batches.set_state(now.position)
        if taken > steps:
            raise ValueError(f"{directory} holds {taken} steps, more than the {steps} asked for")

        while taken < steps:
            taken += 1
            inputs = next(batches)
            head, state, loss = step(
                variables, now.head, now.optimizer, inputs["image"], inputs["labels"]
            )
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {taken}: the learning rate {learning_rate} is too "
                    "high, or the network's outputs are not finite"
                )
            now = State(head, state, batches.get_state())
            last = taken == steps
            if checkpoints is not None and (last or taken % save_every == 0):
                checkpoints.save(taken, now)
            precision = None
            if measure and (last or (validate_every and taken % validate_every == 0)):
                logits = measure(variables=with_layer(variables, output_layer, now.head))
                precision = precision_of(validation or (), logits)
            if on_step is not None:
                on_step(taken, float(loss), precision)
    return with_layer(variables, output_layer, now.head)


def load_fine_tuned(variables: Any, directory: str | os.PathLike[str]) -> Variables:
    """The variables with the output layer of a run's last checkpoint.

    Args:
        variables: those that `fine_tune` was given.
        directory: that of the run.

    Raises:
        FileNotFoundError: the directory holds no run, or one without a checkpoint.
        ValueError: these are other variables than the run's, or the checkpoint is damaged.
    """
    variables = flax.core.unfreeze(variables)
    configuration = configuration_of(directory)
    if configuration.get("variables") != digest(variables):
        raise ValueError(f"{directory} holds a run that began with other variables than these")
    name = configuration["output_layer"]
    head = layer_of(variables, name)
    state = optax.sgd(configuration["learning_rate"], configuration["momentum"]).init(head)
    with Checkpoints(directory, None) as checkpoints:
        found = checkpoints.latest(State(head, state, {}))
    if found is None:
        raise FileNotFoundError(f"{directory} holds a run without a checkpoint yet")
    return with_layer(variables, name, found[1].head)


def _step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    normalise: Callable[[jax.Array], jax.Array],
    output_layer: str,
) -> Step:
    """(variables, head, optimizer's state, images, labels) -> (head, optimizer's state, loss)."""

    @jax.jit
    def step(
        variables: Variables, head: Any, state: Any, images: Any, labels: Any
    ) -> tuple[Any, Any, jax.Array]:
        # Nothing but the head is differentiated, so below it there is no backward pass.
        def loss_of(head: Any) -> jax.Array:
            logits = model.apply(with_layer(variables, output_layer, head), normalise(images))
            return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1).mean()

        loss, gradient = jax.value_and_grad(loss_of)(head)
        updates, state = optimizer.update(gradient, state, head)
        return optax.apply_updates(head, updates), state, loss

    return step


def _letters(name: str) -> np.ndarray:
    return np.frombuffer(name.encode("utf-8", "surrogateescape"), np.uint8)


def _check_numbers(
    steps: int,
    batch: int,
    seed: int,
    size: int,
    resized: int,
    save_every: int,
    validate_every: int | None,
) -> None:
    numbers = {"steps": steps, "batch": batch, "size": size, "save_every": save_every}
    if validate_every is not None:
        numbers["validate_every"] = validate_every
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if resized < size:
        raise ValueError(f"crops of size {size} do not fit into squares of resized {resized}")


def _check_records(records: Sequence[Record], classes: int, what: str) -> None:
    if not records:
        raise ValueError(f"there are no records {what}")
    for record in records:
        if record.labels.shape != (classes,):
            raise ValueError(
                f"{record.path} has labels of shape {record.labels.shape}, the model has "
                f"{classes} logits"
            )
