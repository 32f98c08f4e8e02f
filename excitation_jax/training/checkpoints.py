"""The directory of one run of `fine_tune`: what it was asked for, and where it stands.

`run.json` says what the run is, and `classes.txt` what its outputs are called, where that is known.
Beside them lie the last checkpoints, by Orbax, each a folder with the step's number that holds what
is trained, the optimizer's state and the input's position. All of it is written under another name
and renamed, so a process may be killed at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..data.files import read_classes
from ..data.run_directory import claim, content, settings_of, write_whole

_RUN = "run.json"
CLASSES = "classes.txt"
_KEPT = 2  # checkpoints

#: See `run_directory`.
Configuration = Mapping[str, Any]


class State(NamedTuple):
    """What changes in a run.

    trained: the parameters that are trained.
    optimizer: the optimizer's state for them.
    position: the input iterator's state, or None at the beginning. With the seed, all that decides
        what is drawn next.
    """

    trained: Any
    optimizer: Any
    position: dict[str, Any] | None


class Checkpoints:
    """The checkpoints in a directory, which belongs to one configuration. A context manager.

    Args:
        directory: made if it is missing, with its parents.
        configuration: all that a continued run must have in common with the one that it continues.
            None takes the directory as it is, only to read: the run may be going on.

    Raises:
        FileExistsError: the directory holds a run of another configuration (the message says what
            differs), or something else.
    """

    def __init__(self, directory: str | os.PathLike[str], configuration: Configuration | None):
        self.directory = Path(directory).absolute()
        if configuration is not None:
            claim(self.directory, _RUN, configuration, holds="run", of_others="another run")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            cleanup_tmp_directories=configuration is not None,  # what a killed process left
            enable_async_checkpointing=False,
            read_only=configuration is None,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self, like: State) -> tuple[int, State] | None:
        """The last checkpoint's step and state, or None where there is none yet.

        Args:
            like: a state with arrays of the same shapes, such as the one at the beginning.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        arrays = jax.tree.map(np.asarray, {"trained": like.trained, "optimizer": like.optimizer})
        wanted = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(arrays), position=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=wanted)
        except Exception as error:  # what is raised depends on the file that is damaged
            raise ValueError(
                f"the checkpoint {self.directory / str(step)} is damaged; remove it to continue "
                f"from the one before: {error}"
            ) from error
        arrays = jax.tree.map(jnp.asarray, restored["arrays"])
        return step, State(arrays["trained"], arrays["optimizer"], restored["position"])

    def save(self, step: int, state: State) -> None:
        """Writes a checkpoint, and removes all but the last two."""
        # NumPy arrays, because a jax.Array would have this machine's devices recorded with it.
        arrays = jax.tree.map(np.asarray, {"trained": state.trained, "optimizer": state.optimizer})
        written = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(state.position)
        )
        self._manager.save(step, args=written)


def digest(*arrays: Any) -> str:
    """A short name for the contents, types, shapes and order of the arrays in pytrees."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype} {array.shape};".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def configuration_of(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration that a run's directory belongs to, whatever was given for it.

    Raises:
        FileNotFoundError: there is no run in the directory.
        ValueError: what says so is damaged.
    """
    found = settings_of(Path(directory), _RUN, "run")
    return {key: content(value) for key, value in found.items()}


def write_classes(directory: str | os.PathLike[str], classes: Sequence[str]) -> None:
    """Says what the outputs of a run are called, one on each line.

    Raises:
        ValueError: a name is empty or more than a line, or two are the same.
    """
    wrong = [name for name in classes if name.splitlines() != [name] or name != name.strip()]
    if wrong or len(set(classes)) < len(classes):
        raise ValueError(
            f"the names of classes must differ, and each be one line, got {wrong or classes}"
        )
    write_whole(Path(directory) / CLASSES, "".join(f"{name}\n" for name in classes))


def classes_of(directory: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """What the outputs of a run are called; None where that was not said.

    Raises:
        ValueError: what says so is damaged.
    """
    path = Path(directory) / CLASSES
    return read_classes(path) if path.exists() else None
