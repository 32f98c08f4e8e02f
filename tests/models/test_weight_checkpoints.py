"""What `save` writes is what `load` returns, or one error that names the directory."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from excitation_jax import digits
from excitation_jax.models.weight_files import load, save

# On an error, Orbax leaves futures and callbacks of its threads behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

METADATA = {"model": "net", "labels": ["cat", "dog"], "size": 224, "mean": [0.5], "more": None}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(2, param_dtype=jnp.bfloat16)(x.mean((1, 2)))


def variables(seed: int = 0) -> dict:
    return Net().init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))


def expected() -> dict:
    return jax.eval_shape(variables)


def refusal(directory: Path, *arguments: object) -> str:
    with pytest.raises(ValueError) as error:
        load(directory, *arguments)
    message = str(error.value)
    assert message.startswith(f"{directory} ") and len(message) < 2000
    return message


def assert_same(found: object, wanted: object) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# --- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("checked", [False, True])
def test_flax_variables_and_metadata(tmp_path: Path, checked: bool) -> None:
    save(tmp_path / "a" / "b", variables(), METADATA)
    found, metadata = load(tmp_path / "a" / "b", expected() if checked else None)
    assert_same(found, variables())
    assert metadata == METADATA
    assert Net().apply(found, jnp.ones((1, 8, 8, 3))).shape == (1, 2)
    assert os.listdir(tmp_path / "a") == ["b"]  # nothing temporary stays


class Pair(NamedTuple):
    kernel: jax.Array
    biases: list


def test_other_pytrees_come_back_as_expected(tmp_path: Path) -> None:
    pytree = {"w": Pair(jnp.ones(3), [jnp.zeros((1, 2)), jnp.array(True)]), "n": (jnp.arange(4),)}
    save(tmp_path / "c", pytree)
    assert_same(load(tmp_path / "c", jax.eval_shape(lambda: pytree)).variables, pytree)
    plain = load(tmp_path / "c").variables
    assert isinstance(plain["w"], dict) and isinstance(plain["n"], list)


def test_any_orbax_reads_what_save_writes(tmp_path: Path) -> None:
    save(tmp_path / "c", variables())
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "c")
    assert_same(jax.tree.map(jnp.asarray, found), variables())


def test_load_reads_what_orbax_writes(tmp_path: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "c", variables())  # with the shardings of this machine
    found, metadata = load(tmp_path / "c", expected())
    assert_same(found, variables())
    assert metadata == {}
    assert_same(load(digits.CHECKPOINT).variables, digits.load()[1])


# --- saving --------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    save(tmp_path / "c", variables(0), {"seed": 0})
    with pytest.raises(FileExistsError, match=r"c exists: give another directory or overwrite"):
        save(tmp_path / "c", variables(1))
    assert load(tmp_path / "c").metadata == {"seed": 0}
    save(tmp_path / "c", variables(1), {"seed": 1}, overwrite=True)
    found, metadata = load(tmp_path / "c")
    assert_same(found, variables(1))
    assert metadata == {"seed": 1} and os.listdir(tmp_path) == ["c"]


def test_only_a_checkpoint_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    (tmp_path / "file").write_text("2")
    for name in ("thesis", "file"):
        with pytest.raises(FileExistsError, match=f"{name} is no checkpoint, so that it is not"):
            save(tmp_path / name, variables(), overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "1"
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", variables())
    assert_same(load(tmp_path / "empty").variables, variables())


@pytest.mark.parametrize(
    ("pytree", "metadata", "reason"),
    [
        ({}, {}, "there is no array among the variables"),
        ({"a": {"key": jax.random.key(0)}}, {}, "a/key has the dtype key<fry>: only arrays of"),
        ({"a": np.zeros((0, 2))}, {}, "a has no elements, and Orbax cannot hold"),
        ({"a": np.array(["b"])}, {}, "a has the dtype <U1: only arrays of numbers"),
        ({"a.b": np.ones(2), "a": {"b": np.zeros(2)}}, {}, "two of the variables have the same"),
        ({"a": np.ones(2)}, {"when": object()}, "the metadata for .* is not JSON"),
        ({"a": np.ones(2)}, {"loss": np.nan}, "the metadata for .* is not JSON"),
        ({"a": np.ones(2)}, {"x": "y" * 2**20}, "the metadata for .* is over 1 MiB"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, pytree: dict, metadata: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        save(tmp_path / "c", pytree, metadata)
    assert os.listdir(tmp_path) == []


# --- loading -------------------------------------------------------------------------------------


def test_every_mismatch_is_listed_at_once(tmp_path: Path) -> None:
    wrong = variables()
    del wrong["batch_stats"]
    wrong["params"]["Dense_0"]["bias"] = jnp.zeros(3, jnp.bfloat16)
    wrong["params"]["Dense_0"]["kernel"] = jnp.zeros((4, 2))
    wrong["params"]["extra"] = jnp.zeros(1)
    save(tmp_path / "c", wrong)
    message = refusal(tmp_path / "c", expected())
    assert "use a checkpoint of this network (mismatches: 5)" in message
    for line in (
        "params/extra: unexpected",
        "batch_stats/BatchNorm_0/mean: missing, expected float32 (4,)",
        "batch_stats/BatchNorm_0/var: missing, expected float32 (4,)",
        "params/Dense_0/bias: bfloat16 (3,), expected bfloat16 (2,)",
        "params/Dense_0/kernel: float32 (4, 2), expected bfloat16 (4, 2)",
    ):
        assert f"\n  {line}" in message


def test_the_limit_comes_before_the_arrays(tmp_path: Path) -> None:
    save(tmp_path / "c", {"a": np.zeros((2**18,), np.float32)})
    with pytest.raises(ValueError, match=r"declares 1048576 bytes, more than the limit of 1048575"):
        load(tmp_path / "c", limit=2**20 - 1)


def test_foreign_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*absent: check the path"):
        load(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    (tmp_path / "step" / "default").mkdir(parents=True)
    for name in ("file", "step"):
        assert "is no Orbax checkpoint, since it has no file _METADATA" in refusal(tmp_path / name)
    (tmp_path / "step" / "_METADATA").write_text("{}")
    assert "is a damaged checkpoint" in refusal(tmp_path / "step")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is a damaged checkpoint"),
        (b"[]", "excitation_jax.json is not what save writes"),
        (b'{"version": 1, "metadata": 3}', "excitation_jax.json is not what save writes"),
        (b'{"version": 2}', "is of a newer excitation_jax: update this one"),
        (b'{"version": ' + b"9" * 9999 + b"}", "is a damaged checkpoint"),
        (b"[" * 99999, "is a damaged checkpoint"),
        (b" " * (2**24 + 1), "excitation_jax.json is larger than save writes it"),
    ],
)
def test_damaged_metadata(tmp_path: Path, content: bytes, reason: str) -> None:
    save(tmp_path / "c", {"a": np.ones(2)})
    (tmp_path / "c" / "excitation_jax.json").write_bytes(content)
    assert reason in refusal(tmp_path / "c")


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "c", {"a": np.arange(3), "b": np.ones(2)})
    file = tmp_path / "c" / "excitation_jax.json"
    content = json.loads(file.read_text())
    content["checksums"]["a"] += 1
    file.write_text(json.dumps(content))
    assert "is a damaged checkpoint (not what was saved: a): copy or" in refusal(tmp_path / "c")


@pytest.mark.slow
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    arrays = {"k": np.random.default_rng(0).standard_normal((40, 40)), "t": [np.arange(3)]}
    save(tmp_path / "sound", arrays)
    files = sorted(p for p in (tmp_path / "sound").rglob("*") if p.is_file())
    rng = random.Random(0)
    refused = 0
    for _ in range(600):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "sound", copy)
        damaged = copy / rng.choice(files).relative_to(tmp_path / "sound")
        content = bytearray(damaged.read_bytes())
        match rng.randrange(4):
            case 0 | 1:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                damaged.write_bytes(content)
            case 2:
                damaged.write_bytes(content[: rng.randrange(len(content))])
            case 3:
                damaged.unlink()
        try:
            found = load(copy).variables
        except ValueError as error:
            assert str(error).startswith(f"{copy} ")
            refused += 1
        else:
            # Without the file that has the checksums, a changed value is not noticed; but here
            # only one file is damaged.
            assert_same(found, jax.tree.map(jnp.asarray, arrays))
    assert 100 < refused < 600
