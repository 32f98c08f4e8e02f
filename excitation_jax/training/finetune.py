"""Training of a network for several labels, as the papers did it: of its output layer, or of all.

Zhang et al. (IJCV18, Sec. 6) replace the classifier of a network that knows ImageNet by one for the
classes of a data set in which an image shows several, and train only that: the cross-entropy of
each class's sigmoid, by stochastic gradient descent. Their tag classifier is trained as a whole.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..data.run_directory import setting
from ..models.preprocessing import Preprocessing
from .backbone import Backbone
from .checkpoints import Checkpoints, State, configuration_of, digest, write_classes
from .descent import Descent, DescentState
from .labelled import Labelled
from .output_layer import Variables, check_shapes
from .part import Layers, Part, part_of, trained_in, with_trained
from .scoring import BATCH, RESIZED, cross_entropy, minus_one_to_one
from .sources import Crops, Drawn, Remembered, central_inputs
from .tags import TaggedRecord
from .validation import Measured, Validation

SAVE_EVERY = 10  # steps

_FEATURES = "features"  # the folder in a run's directory

Step = Callable[[Any, Any, DescentState, Any, Any], tuple[Any, DescentState, jax.Array]]


def fine_tune(
    model: nn.Module,
    variables: Any,
    records: Sequence[Labelled],
    *,
    steps: int,
    batch: int = BATCH,
    seed: int = 0,
    size: int = 224,
    resized: int = RESIZED,
    normalise: Callable[[jax.Array], jax.Array] = minus_one_to_one,
    output_layer: str = "logits",
    layers: Layers = "output",
    views: int | None = None,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    patience: int | None = None,
    factor: float = 0.1,
    directory: str | os.PathLike[str] | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
    classes: Sequence[str] | None = None,
    save_every: int = SAVE_EVERY,
    validation: Sequence[Labelled] | None = None,
    validate_every: int | None = None,
    on_step: Callable[[int, float, Measured | None], None] | None = None,
    on_features: Callable[[int, int], None] | None = None,
) -> Variables:
    """The variables with a trained output layer, or with all parameters trained.

    The loss is the sigmoid cross-entropy, summed over the classes and averaged over the batch, of
    the output layer's own outputs; see `Backbone`. Photographs are mirrored to a square, resized,
    cropped at random and flipped in half of the cases. Statistics of a BatchNorm stay as they are.

    The result depends on the arguments only. With a `directory`, a run that was interrupted at any
    point, be it by SIGKILL, continues when it is called again, and ends with the same bits as one
    that was not, on the same machine with the same versions.

    Args:
        model: a Flax Linen module; `model.apply(variables, x)` is inference, logits (N, classes).
        variables: {"params": ..., ...}, see `new_output_layer`.
        records: what to train with, see `read_voc`, `read_coco` and `tags`.
        steps: to take in all, those before an interruption included.
        batch: photographs a step.
        seed: of the order, the crops and the flips.
        size: side of the network's input.
        resized: side of the square that is cropped.
        normalise: uint8 (N, size, size, 3) in RGB -> the network's input, such as
            `Preprocessing.normalise`.
        output_layer: the layer's name in variables["params"]; "a/b" is the b in a.
        layers: "output" trains this layer alone, "all" trains every parameter.
        views: crops and flips of each photograph, drawn once, which the epochs show by turns; what
            the output layer is given for them is computed once, and kept in the directory. None:
            they are drawn anew in each epoch.
        learning_rate: of the gradient descent.
        momentum: of the gradient descent.
        patience: the learning rate is lowered when this many measurements of the validation error
            in a row were no better than the best before. None: it is fixed.
        factor: by which it is lowered.
        directory: for checkpoints. It belongs to this run alone. None keeps nothing.
        given: what a user gave for some of these arguments, such as {"records": {"--voc": "VOC"}},
            to name it where the directory holds another run.
        classes: what the outputs are called, for the directory; see `classes_of`.
        save_every: steps between checkpoints; the last step has one, too.
        validation: records to measure with.
        validate_every: steps between measurements; the last step has one in any case.
        on_step: called after each step with the number of steps taken, the loss and what was
            measured, if that was.
        on_features: called while features are computed, with the number of photographs done and
            that of all; see `views`.

    Raises:
        ValueError: a number is out of its range, or arguments do not belong together; the output
            layer is missing or has not the shape that the model needs; the labels are not as many
            as the logits; no class occurs in `validation`; the directory holds more than `steps`
            steps or a damaged checkpoint; a photograph is damaged.
        FileExistsError: the directory holds another run, or something else.
        FloatingPointError: the loss is infinite or NaN.
    """
    _check_numbers(steps, batch, seed, size, resized, save_every, validate_every, views)
    if layers == "all" and views is not None:
        raise ValueError("views are of use where only the output layer is trained: leave them out")
    if patience is not None and (validation is None or validate_every is None):
        raise ValueError("patience counts measurements: give validation and validate_every, too")
    variables = flax.core.unfreeze(variables)
    count = check_shapes(model, variables, size, output_layer)
    _check_records(records, count, "to train with")
    if validation is not None:
        _check_records(validation, count, "for validation")
    if classes is not None and len(classes) != count:
        raise ValueError(f"there are {len(classes)} names of classes, but {count} logits")
    descent = Descent(learning_rate, momentum, patience, factor)
    backbone = Backbone(model, variables, size, output_layer)
    part = part_of(layers, backbone, variables, output_layer, normalise)
    trained = jax.tree.map(jnp.asarray, part.trained)
    taken, now = 0, State(trained, descent.init(trained), None)
    crops = Crops(batch, size, resized, seed)
    folder = None if directory is None else Path(directory) / _FEATURES
    measured = None
    if validation is not None:
        shown = central_inputs(part, validation, crops, folder, on_features)
        logits = functools.partial(jax.jit(part.logits), part.frozen)
        measured = Validation(validation, shown, logits)
    with contextlib.ExitStack() as stack:
        checkpoints = None
        if directory is not None:
            plateau = None if patience is None else [patience, float(factor), validate_every]
            # What the learning rate follows decides the result as what is trained with does.
            decisive = [_contents(records), _contents(validation or ()) if plateau else []]
            configuration = {
                "output_layer": output_layer,
                "layers": layers,
                "views": views,
                "batch": batch,
                "seed": seed,
                "size": size,
                "resized": resized,
                "normalise": _name_of(normalise),
                "learning_rate": float(learning_rate),
                "momentum": float(momentum),
                "plateau": plateau,
                "variables": digest(variables),
                "records": digest(*decisive, [_letters(name) for name in classes or ()]),
            }
            named = {key: setting(own, configuration[key]) for key, own in (given or {}).items()}
            checkpoints = stack.enter_context(Checkpoints(directory, {**configuration, **named}))
            if classes is not None:
                write_classes(directory, classes)
            taken, now = checkpoints.latest(now) or (taken, now)
        if taken > steps:
            raise ValueError(f"{directory} holds {taken} steps, more than the {steps} asked for")

        source: Drawn | Remembered
        if views is None:
            source = Drawn(part, records, crops)
        else:
            source = Remembered(part, records, crops, views, folder, on_features)
        stack.callback(source.batches.close)
        if now.position is not None:
            source.batches.set_state(now.position)
        step = _step(part, descent)
        while taken < steps:
            taken += 1
            drawn = next(source.batches)
            inputs = source.inputs(drawn)
            trained, state, loss = step(
                part.frozen, now.trained, now.optimizer, inputs, drawn["labels"]
            )
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {taken}: the learning rate {learning_rate} is too "
                    "high, or the network's outputs are not finite"
                )
            last = taken == steps
            due = validate_every is not None and taken % validate_every == 0
            found = None
            if measured is not None and (last or due):
                precision, error = measured.measure(trained)
                if due:  # at the last step, a longer run may have none
                    state = descent.measured(state, error)
                found = Measured(precision, error, descent.learning_rate(state))
            now = State(trained, state, source.batches.get_state())
            if checkpoints is not None and (last or taken % save_every == 0):
                checkpoints.save(taken, now)
            if on_step is not None:
                on_step(taken, float(loss), found)
    return with_trained(layers, variables, output_layer, now.trained)


def load_fine_tuned(variables: Any, directory: str | os.PathLike[str]) -> Variables:
    """The variables with what a run's last checkpoint has in their place.

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
    layers, name = configuration["layers"], configuration["output_layer"]
    trained = trained_in(layers, variables, name)
    # Of the state only the shapes count, which are the same whether the learning rate falls or not.
    state = Descent(configuration["learning_rate"], configuration["momentum"], None).init(trained)
    with Checkpoints(directory, None) as checkpoints:
        found = checkpoints.latest(State(trained, state, None))
    if found is None:
        raise FileNotFoundError(f"{directory} holds a run without a checkpoint yet")
    return with_trained(layers, variables, name, found[1].trained)


def _step(part: Part, descent: Descent) -> Step:
    """(frozen, trained, optimizer's state, inputs, labels) -> (trained, state, loss)."""

    @jax.jit
    def step(
        frozen: Any, trained: Any, state: DescentState, inputs: Any, labels: Any
    ) -> tuple[Any, DescentState, jax.Array]:
        def loss_of(trained: Any) -> jax.Array:
            return cross_entropy(part.logits(frozen, trained, inputs), labels)

        loss, gradient = jax.value_and_grad(loss_of)(trained)
        return *descent.step(gradient, state, trained), loss

    return step


def _name_of(normalise: Callable[[jax.Array], jax.Array]) -> str:
    """What tells pre-processings apart in a run's configuration."""
    owner = getattr(normalise, "__self__", None)
    if isinstance(owner, Preprocessing):  # of which all methods have one name
        return repr(owner)
    return str(getattr(normalise, "__qualname__", type(normalise).__qualname__))


def _contents(records: Sequence[Labelled]) -> list[Any]:
    """What tells records apart. Names, not paths: a data set may move before a run is continued."""
    return [
        (_letters(r.path.name), np.array(r.present) if isinstance(r, TaggedRecord) else r.labels)
        for r in records
    ]


def _letters(name: str) -> NDArray[np.uint8]:
    return np.frombuffer(name.encode("utf-8", "surrogateescape"), np.uint8)


def _check_numbers(
    steps: int,
    batch: int,
    seed: int,
    size: int,
    resized: int,
    save_every: int,
    validate_every: int | None,
    views: int | None,
) -> None:
    numbers = {"steps": steps, "batch": batch, "size": size, "save_every": save_every}
    optional = {"validate_every": validate_every, "views": views}
    numbers |= {name: number for name, number in optional.items() if number is not None}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if resized < size:
        raise ValueError(f"crops of size {size} do not fit into squares of resized {resized}")


def _check_records(records: Sequence[Labelled], classes: int, what: str) -> None:
    if not records:
        raise ValueError(f"there are no records {what}")
    for record in records:
        if record.labels.shape != (classes,):
            raise ValueError(
                f"{record.path} has labels of shape {record.labels.shape}, the model has "
                f"{classes} logits"
            )
