"""SqueezeNet computes what the release computes, and bad weight files are refused with a reason."""

import functools
import io
import json
import pickle
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_bytes as wb
from paths import SHARED
from PIL import Image

from excitation_jax.models import squeezenet, weights

WEIGHTS = SHARED / "data" / "weights" / "squeezenet_v1_0.npz"
ORACLE = SHARED / "oracles" / "squeezenet_real.npz"
PHOTOGRAPHS = SHARED / "data" / "imagenet_256"

needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no weights at {WEIGHTS}")
needs_oracle = pytest.mark.skipif(not ORACLE.is_file(), reason=f"no reference maps at {ORACLE}")
needs_photographs = pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason=f"no photographs at {PHOTOGRAPHS}"
)

MEAN_BGR = np.array([104, 117, 123], np.float32)


# --- the network ---------------------------------------------------------------------------------


@needs_weights
@needs_oracle
def test_logits_are_the_reference() -> None:
    with np.load(ORACLE, allow_pickle=False) as oracle:
        rgb, logits, top5 = oracle["rgb"], oracle["logits"], oracle["top5"]
    variables = squeezenet.load_npz(WEIGHTS)
    x = rgb[..., ::-1].astype(np.float32) - MEAN_BGR
    ours = np.asarray(jax.jit(squeezenet.SqueezeNet().apply)(variables, x))
    assert np.abs(ours - logits).max() < 1e-5 * np.abs(logits).max()
    np.testing.assert_array_equal(np.argsort(-ours)[:, :5], top5)


@needs_oracle
def test_modules_leave_the_shapes_of_the_reference_maps() -> None:
    with np.load(ORACLE, allow_pickle=False) as oracle:
        layers = json.loads(oracle["meta"].item())["layers"]
        sizes = {layer: oracle[f"mwp:true:{layer}"].shape[1:] for layer in layers}
    model = squeezenet.SqueezeNet()
    image = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    apply = functools.partial(model.apply, capture_intermediates=True)
    _, state = jax.eval_shape(apply, variables, image)
    for layer, size in sizes.items():
        (value,) = state["intermediates"][layer]["__call__"]
        assert value.shape[1:3] == size


@needs_weights
@needs_photographs
def test_top_1_on_photographs_is_the_networks_known_accuracy() -> None:
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[::5]
    labels = np.array([int(file.name[:4]) for file in files])
    apply = jax.jit(squeezenet.SqueezeNet().apply)
    variables = squeezenet.load_npz(WEIGHTS)
    logits = []
    for start in range(0, len(files), 20):
        images = [squeezenet.preprocess(Image.open(f)) for f in files[start : start + 20]]
        logits.append(np.asarray(apply(variables, jnp.concatenate(images))))
    order = np.argsort(-np.concatenate(logits))
    top1 = float((order[:, 0] == labels).mean())
    top5 = float((order[:, :5] == labels[:, None]).any(1).mean())
    print(f"SqueezeNet on {len(files)} photographs: top-1 {top1:.1%}, top-5 {top5:.1%}")
    # 65.5 % and 85.9 % on 1000 of them; a sample of 60 has standard errors of 6 and 5 points.
    assert 0.50 < top1 < 0.85
    assert top5 > 0.72


# --- preprocess ----------------------------------------------------------------------------------


def test_preprocess_crops_the_centre_in_bgr_minus_the_mean() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    x = squeezenet.preprocess(rgb)
    assert x.shape == (1, 227, 227, 3) and x.dtype == jnp.float32
    np.testing.assert_array_equal(x[0], rgb[14:241, 14:241, ::-1] - MEAN_BGR)


def test_preprocess_warps_any_image_to_the_same_square() -> None:
    wide = Image.new("L", (500, 90), 200)
    np.testing.assert_array_equal(
        squeezenet.preprocess(wide), np.broadcast_to(200 - MEAN_BGR, (1, 227, 227, 3))
    )


@pytest.mark.parametrize(
    "array",
    [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)],
    ids=["float", "grey", "batch"],
)
def test_preprocess_refuses_other_arrays(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 array \(H, W, 3\) in RGB, not"):
        squeezenet.preprocess(array)


# --- the loader ----------------------------------------------------------------------------------

EXPECTED = {
    "conv": {
        "kernel": jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32),
        "bias": jax.ShapeDtypeStruct((4,), jnp.float32),
    },
    "steps": jax.ShapeDtypeStruct((), jnp.int32),
}


def good_arrays() -> dict[str, np.ndarray]:
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype(np.float32)
    return {
        "conv/kernel": kernel,
        "conv/bias": np.arange(4, dtype=np.float32),
        "steps": np.array(7, np.int32),
    }


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        weights.load_npz(path, EXPECTED)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_was_saved_is_loaded(tmp_path: Path, save) -> None:
    arrays = good_arrays()
    save(tmp_path / "w.npz", **arrays)
    loaded = weights.load_npz(tmp_path / "w.npz", EXPECTED)
    assert jax.tree.structure(loaded) == jax.tree.structure(EXPECTED)
    np.testing.assert_array_equal(loaded["conv"]["kernel"], arrays["conv/kernel"])
    np.testing.assert_array_equal(loaded["conv"]["bias"], arrays["conv/bias"])
    assert loaded["steps"].dtype == jnp.int32 and loaded["steps"] == 7


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent.npz: check the path"):
        weights.load_npz(tmp_path / "absent.npz", EXPECTED)
    assert "is a directory: give a weight file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: download or write it again"),
        (b"<!DOCTYPE html>", "is a web page, as servers send instead of a file: download or"),
        (pickle.dumps({"conv/bias": [1.0]}), "is a pickle, as PyTorch's .pt and .pth files are"),
        (
            wb.safetensors_file(wb.arrays()),
            "is a safetensors file: give the .npz file of this network",
        ),
    ],
    ids=["empty", "html", "pickle", "safetensors"],
)
def test_a_file_that_is_not_an_npz(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_single_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(4, np.float32))
    assert "a single .npy array: write all arrays" in refusal(tmp_path / "w.npy")


def test_every_mismatch_is_listed_at_once(tmp_path: Path) -> None:
    arrays = good_arrays()
    del arrays["conv/bias"]
    arrays["conv/kernel"] = arrays["conv/kernel"][..., :3]
    arrays["steps"] = arrays["steps"].astype(np.int64)
    arrays["dense/kernel"] = np.zeros((4, 5), np.float32)
    np.savez(tmp_path / "w.npz", **arrays)
    message = refusal(tmp_path / "w.npz")
    assert "use a file made for this network (mismatches: 4)" in message
    for line in (
        "dense/kernel: unexpected",
        "conv/bias: missing, expected float32 (4,)",
        "conv/kernel: float32 (3, 3, 2, 3), expected float32 (3, 3, 2, 4)",
        "steps: int64 (), expected int32 ()",
    ):
        assert f"\n  {line}" in message


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    arrays = good_arrays()
    arrays["conv/kernel"][0, 1, 1, 2] = np.nan
    arrays["conv/bias"][3] = np.inf
    np.savez(tmp_path / "w.npz", **arrays)
    message = refusal(tmp_path / "w.npz")
    assert "NaN or infinite values in conv/bias, conv/kernel: the weights are unusable" in message


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    objects = np.array([Intruder(trace)] * 4, object)
    np.savez(tmp_path / "w.npz", **{**good_arrays(), "conv/bias": objects})
    message = refusal(tmp_path / "w.npz")
    assert "holds pickled Python objects in 'conv/bias', which are never loaded" in message
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Intruder(trace)))
    assert "is a pickle" in refusal(tmp_path / "w.pkl")
    assert not trace.exists()


def npy_bytes(shape: tuple[int, ...], data: bytes) -> bytes:
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy_bytes((10**9, 10**9), b""), "has 128 bytes, not 4000000000000000128"),
        (npy_bytes((2**24,), bytes(2**26)), "float32 (16777216,), expected float32 (4,)"),
        (npy_bytes((4,), bytes(2**26)), "has 67108992 bytes, not 144"),
        (npy_bytes((4,), bytes(8)), "has 136 bytes, not 144"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 2**26, "declares a header of 2147483647"),
        (b"\x93NUMPY\x09\x00", "is no .npy array"),
        (b"weights", "is no .npy array"),
    ],
    ids=["shape", "large", "long", "short", "header", "version", "text"],
)
def test_a_member_that_declares_too_much_is_not_read(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "w.npz"
    arrays = good_arrays()
    del arrays["conv/bias"]
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv/bias.npy", content)
    tracemalloc.start()
    try:
        message = refusal(path)
        assert "conv/bias" in message and reason in message
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_numpy_would_not_write(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, **good_arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("conv/bias.npy", npy_bytes((4,), bytes(16)))
    assert "holds the array 'conv/bias' twice" in refusal(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data.pkl", b"")
    assert "is a PyTorch file, in it a pickle" in refusal(path)

    with zipfile.ZipFile(tmp_path / "bz2.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("conv/bias.npy", npy_bytes((4,), bytes(16)))
    assert "'conv/bias' is compressed by a method that numpy" in refusal(tmp_path / "bz2.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, save) -> None:
    save(tmp_path / "w.npz", **good_arrays())
    content = (tmp_path / "w.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for length in range(2, len(content), 7):
        cut.write_bytes(content[:length])
        assert "damaged .npz file" in refusal(cut)
        assert "download or write it again" in refusal(cut)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path, save) -> None:
    arrays = good_arrays()
    save(tmp_path / "w.npz", **arrays)
    content = (tmp_path / "w.npz").read_bytes()
    changed = tmp_path / "changed.npz"
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 0x55
        changed.write_bytes(flipped)
        try:
            loaded = weights.load_npz(changed, EXPECTED)
        except ValueError as error:
            assert str(changed) in str(error)
        else:
            np.testing.assert_array_equal(loaded["conv"]["kernel"], arrays["conv/kernel"])
            np.testing.assert_array_equal(loaded["conv"]["bias"], arrays["conv/bias"])
            assert loaded["steps"] == arrays["steps"]


@needs_weights
def test_a_cut_download_of_the_real_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet_v1_0.npz"
    shutil.copy(WEIGHTS, path)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(500_000)
    with pytest.raises(ValueError, match="squeezenet_v1_0.npz is a damaged .npz file"):
        squeezenet.load_npz(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **good_arrays())
    with pytest.raises(ValueError, match=r"\(mismatches: 55\)") as error:
        squeezenet.load_npz(tmp_path / "w.npz")
    assert "conv_final/kernel: missing, expected float32 (1, 1, 512, 1000)" in str(error.value)
