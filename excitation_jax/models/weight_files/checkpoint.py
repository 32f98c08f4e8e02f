"""Flax variables with a few words about them in an Orbax checkpoint.

The directory is what Orbax's StandardCheckpointer writes, which any Orbax reads, and one file
more: `excitation_jax.json` with the metadata and a checksum of each array, since Orbax itself
notices damage to its indices, but not to the values.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from .checks import mismatches
from .reader import DEFAULT_LIMIT

_METADATA = "excitation_jax.json"
_ORBAX = "_METADATA"  # Orbax's own, in every directory that holds one tree
_METADATA_BYTES = 2**20
_METADATA_FILE_BYTES = 2**24  # with the checksums, of which there is one for each array
_VERSION = 1


class Checkpoint(NamedTuple):
    """What `load` found.

    Attributes:
        variables: the pytree, of `jax.Array`.
        metadata: what was given to `save`; empty for a checkpoint that something else wrote.
    """

    variables: Any
    metadata: dict[str, Any]


def save(
    directory: str | os.PathLike[str],
    variables: Any,
    metadata: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes variables and metadata as an Orbax checkpoint, which appears complete or not at all.

    Args:
        directory: the checkpoint, a directory that is not there yet or empty; missing parents
            are made. Everything is written beside it and then renamed.
        variables: a pytree of numeric arrays, such as {"params": ..., "batch_stats": ...}.
        metadata: what JSON can hold, up to 1 MiB: the model's name, its labels, ...
        overwrite: whether to replace a checkpoint that is there; anything else stays.

    Raises:
        FileExistsError: there is something at `directory`, and `overwrite` is not set or it is
            no checkpoint.
        ValueError: `variables` has a leaf that is no numeric array or has no elements, or no
            leaf at all, or `metadata` is not JSON.
    """
    out = Path(directory).resolve()
    replaced = check_free(out, overwrite=overwrite)
    metadata = dict(metadata or {})
    try:
        length = len(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata for {out} is not JSON: {error}") from error
    if length > _METADATA_BYTES:
        raise ValueError(f"the metadata for {out} is over 1 MiB: keep large data in a file beside")
    arrays = _arrays(variables)
    checksums = {name: _checksum(array) for name, array in _by_name(arrays).items()}
    content = {"version": _VERSION, "metadata": metadata, "checksums": checksums}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        written, old = Path(temporary) / "checkpoint", Path(temporary) / "old"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(written, arrays)
        (written / _METADATA).write_text(json.dumps(content, indent=1))
        if replaced:
            os.replace(out, old)
        try:
            os.replace(written, out)
        except OSError:
            if replaced:
                os.replace(old, out)
            raise


def load(
    directory: str | os.PathLike[str], expected: Any = None, *, limit: int = DEFAULT_LIMIT
) -> Checkpoint:
    """The variables and the metadata of an Orbax checkpoint, which need not be one of `save`.

    Args:
        directory: the checkpoint. Nothing is written there, and it may come from a machine with
            other devices.
        expected: a pytree of `jax.ShapeDtypeStruct`, as `jax.eval_shape(model.init, ...)` gives;
            the variables come back in its structure. Without it they are nested dictionaries,
            and lists for lists and tuples.
        limit: the most bytes that the arrays may take.

    Returns:
        The variables, on JAX's default device, and the metadata. 64-bit numbers become 32-bit
        ones unless JAX has them enabled.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is no checkpoint or a damaged one; it declares more than `limit`; or its
            names, shapes or dtypes are not those expected (every one that differs is listed).
            The message names the directory. No array is read before all this is known.
    """
    directory = Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f"there is no checkpoint {directory}: check the path")
    path = directory.resolve()
    if not _is_checkpoint(path):
        raise ValueError(
            f"{directory} is no Orbax checkpoint, since it has no file {_ORBAX}: give the "
            f"directory with that file (a CheckpointManager makes one for each item of a step)"
        )
    metadata, checksums = _read_metadata(directory)
    # Orbax and tensorstore raise whatever their parsers meet first.
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            declared = handler.metadata(path).tree
        found = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for name, leaf in _by_name(declared).items()
        }
    except Exception as error:
        raise _damaged(directory, error) from error
    _check_size(directory, found, limit)
    if expected is not None:
        _check_expected(directory, found, expected)
    try:
        # As NumPy arrays, so that no sharding of the machine that wrote them is asked for.
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), declared)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            variables = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(restore_args=arguments)
            )
    except Exception as error:
        raise _damaged(directory, error) from error
    restored = _by_name(variables)
    if checksums is not None:
        sums = {name: _checksum(array) for name, array in restored.items()}
        changed = [name for name in {**checksums, **sums} if checksums.get(name) != sums.get(name)]
        if changed:
            raise _damaged(directory, f"not what was saved: {', '.join(changed)}")
    if expected is not None:
        structure = jax.tree.structure(expected)
        variables = jax.tree.unflatten(structure, [restored[name] for name in _by_name(expected)])
    return Checkpoint(jax.tree.map(jnp.asarray, variables), metadata)


def metadata(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What was given to `save` beside the variables; empty for other checkpoints.

    Raises:
        ValueError: the metadata are damaged.
    """
    return _read_metadata(Path(directory))[0]


def check_free(directory: str | os.PathLike[str], *, overwrite: bool = False) -> bool:
    """Whether a checkpoint at `directory` has to go before `save` can write there.

    Raises:
        FileExistsError: as `save` does.
    """
    out = Path(directory)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not overwrite:
        raise FileExistsError(f"{out} exists: give another directory or overwrite=True")
    if not _is_checkpoint(out):
        raise FileExistsError(f"{out} is no checkpoint, so that it is not overwritten: remove it")
    return True


def _is_checkpoint(path: Path) -> bool:
    return (path / _ORBAX).is_file()


def _arrays(variables: Any) -> Any:
    leaves = _by_name(variables)
    if not leaves:
        raise ValueError("there is no array among the variables to save")
    # Orbax calls them "params.conv.kernel": with {"a.b": ...} beside {"a": {"b": ...}} one would
    # overwrite the other.
    dotted = {name.replace("/", ".") for name in leaves}
    if len(dotted) < len(jax.tree.leaves(variables)):
        raise ValueError(
            "two of the variables have the same name once their keys are joined: use keys "
            'without "." and "/"'
        )
    for name, leaf in leaves.items():
        if np.size(leaf) == 0:
            raise ValueError(f"{name} has no elements, and Orbax cannot hold such an array")
        dtype = getattr(leaf, "dtype", None)
        if dtype is None:
            dtype = np.asarray(leaf).dtype
        if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_):
            raise ValueError(
                f"{name} has the dtype {dtype}: only arrays of numbers can be saved "
                f"(jax.random.key_data gives those of a key)"
            )
    # NumPy arrays, because a jax.Array would have this machine's devices recorded with it.
    return jax.tree.map(np.asarray, variables)


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, "params/conv/kernel"; the n-th of a list or a tuple is "n"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _read_metadata(directory: Path) -> tuple[dict[str, Any], dict[str, int] | None]:
    """The metadata and the checksums; none for a checkpoint that something else wrote."""
    file = directory / _METADATA
    if not file.exists():
        return {}, None
    if file.stat().st_size > _METADATA_FILE_BYTES:
        raise _damaged(directory, f"{_METADATA} is larger than save writes it")
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(directory, error) from error
    match content:
        case {"version": int() as version} if version > _VERSION:
            raise ValueError(f"{directory} is of a newer excitation_jax: update this one")
        case {"version": 1, "metadata": dict() as metadata, "checksums": dict() as checksums}:
            return metadata, checksums
    raise _damaged(directory, f"{_METADATA} is not what save writes")


def _check_size(directory: Path, found: dict[str, jax.ShapeDtypeStruct], limit: int) -> None:
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in found.values())
    if total > limit:
        raise ValueError(
            f"{directory} declares {total} bytes, more than the limit of {limit}: give a larger "
            f"limit= if it is meant to be so large"
        )


def _check_expected(directory: Path, found: dict[str, jax.ShapeDtypeStruct], expected: Any) -> None:
    lines = mismatches(found, _by_name(expected))
    if lines:
        raise ValueError(
            f"{directory} does not hold the expected variables: use a checkpoint of this network "
            f"(mismatches: {len(lines)})\n  " + "\n  ".join(lines)
        )


def _damaged(directory: Path, reason: object) -> ValueError:
    return ValueError(
        f"{directory} is a damaged checkpoint ({str(reason)[:500]}): copy or write it again"
    )
