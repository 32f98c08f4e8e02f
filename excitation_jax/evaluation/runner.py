"""Goes through a data set with an experiment, on all devices, and can be killed at any moment.

Threads decode the next batches while the devices compute one; meanwhile the host makes the records
of the one before. A batch's images are sharded over the devices of this process. With several
processes (`jax.distributed`) each does its own share of the batches, and all write into one store:
they need a file system in common, but nothing that they compute depends on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from ..data.own_shape import AnyShape, in_parts
from ..data.pipeline import Batch, batches_of
from ..data.records import Example
from .store import Store

Examples = Sequence[Example]


class Experiment(Protocol):
    """What is done with a batch, in three steps.

    All arrays have the batch's N as their first axis, also where its last rows are filled up; what
    comes out in one row depends on that row alone.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a record."""

    @property
    def dtype(self) -> str:
        """Of a record's numbers: integers."""

    def inputs(self, examples: Examples, batch: Batch) -> Any:
        """On the host: what goes to the devices, a pytree of arrays."""

    def compute(self, variables: Any, inputs: Any) -> Any:
        """On the devices, under `jax.jit`: a pytree of arrays, best of few bytes."""

    def records(self, examples: Examples, outputs: Any) -> NDArray[Any]:
        """On the host: a record for each example, none of them 0 throughout."""


def run(
    experiment: Experiment,
    variables: Any,
    dataset: Examples,
    preprocessing: AnyShape,
    store: Store,
    *,
    threads: int = 2,
    process: tuple[int, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Computes the records that a store lacks. Called again after a kill it does what is left.

    Args:
        experiment: what to do.
        variables: of the network; each device has them all.
        dataset: as many examples as the store has records.
        preprocessing: the network's. A program is compiled for each shape of its inputs: with
            `OwnShape` the data set best comes in the order of shapes.
        store: for the records.
        threads: that decode.
        process: index and number of this process; by default those of `jax.distributed`. Batch i
            is done by process i modulo their number, which need not be that of before.
        devices: by default those of this process.
        on_progress: called with the number of this process's images that are done and with that of
            all its images: at first, and after each batch.

    Returns:
        Whether all records are there, those of other processes, too. It is true for the process
        that ends last at least.

    Raises:
        ValueError: data set and store differ in length, the store is damaged, a photograph is.
    """
    if len(dataset) != store.count:
        raise ValueError(f"{len(dataset)} examples do not fit a store of {store.count} records")
    index, count = process or (jax.process_index(), jax.process_count())
    own = range(index, len(store), count)
    turns = [turn for turn in own if not store.is_done(turn)]
    parts = [
        (turn, part)
        for turn in turns
        for part in in_parts(preprocessing, dataset, store.places(turn), store.batch)
    ]
    total = sum(len(store.places(turn)) for turn in own)
    done = total - sum(len(store.places(turn)) for turn in turns)
    progress = on_progress or (lambda done, total: None)
    progress(done, total)

    chosen = Mesh(np.array(devices or jax.local_devices()), ("batch",), axis_types=(AxisType.Auto,))
    compute = compiled(experiment, chosen)
    variables = jax.device_put(variables, NamedSharding(chosen, P()))
    waiting: tuple[int, list[Example], Any] | None = None
    made: list[NDArray[Any]] = []  # of a batch in the store, until all its parts are there

    def keep(turn: int, examples: list[Example], outputs: Any) -> None:
        nonlocal done
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(examples)], outputs)
        made.append(experiment.records(examples, found))
        if sum(map(len, made)) == len(store.places(turn)):
            store.write(turn, np.concatenate(made))
            made.clear()
            done += len(store.places(turn))
            progress(done, total)

    batches = batches_of(
        [part for _, part in parts], dataset, preprocessing, store.batch, threads=threads
    )
    for (turn, part), batch in zip(parts, batches, strict=True):
        examples = [dataset[place] for place in part]
        inputs = _in_shards(experiment.inputs(examples, batch), chosen)
        outputs = compute(variables, inputs)  # returns at once; the devices are at work
        if waiting is not None:
            keep(*waiting)
        waiting = turn, examples, outputs
    if waiting is not None:
        keep(*waiting)
    return all(store.is_done(turn) for turn in range(len(store)))


def compiled(experiment: Experiment, mesh: Mesh) -> Any:
    """``compute(variables, inputs)`` of an experiment for the devices of a mesh, jitted.

    Each device has its own rows and does what it would do alone: left to itself, XLA's partitioner
    gathers the rows of grouped convolutions, and all devices do the work of all.
    """

    def compute(variables: Any, inputs: Any) -> Any:
        return experiment.compute(variables, inputs)

    own_rows = P("batch")
    return jax.jit(
        jax.shard_map(
            compute, mesh=mesh, in_specs=(P(), own_rows), out_specs=own_rows, check_vma=False
        )
    )


def _in_shards(inputs: Any, mesh: Mesh) -> Any:
    """The rows of arrays on the devices, filled up with zeros so that all get the same number."""

    def put(leaf: Any) -> jax.Array:
        short = -len(leaf) % mesh.size
        if short:
            leaf = np.concatenate([leaf, np.zeros((short, *leaf.shape[1:]), leaf.dtype)])
        return jax.device_put(leaf, NamedSharding(mesh, P("batch")))

    return jax.tree.map(put, inputs)
