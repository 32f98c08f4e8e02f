"""`read` returns what each format holds, and says of every other file what it is."""

import gzip
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import weight_bytes as wb

from excitation_jax.models.weight_files import read


def label(value: object) -> str | None:
    """A test's name without the bytes of its file, in which there may be the time."""
    return "file" if isinstance(value, bytes) else None


def written(folder: Path, content: bytes) -> Path:
    # A suffix that says nothing: the format is told from the bytes.
    path = folder / "the.weights"
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes, **options: int) -> str:
    path = written(folder, content)
    with pytest.raises(ValueError) as error:
        read(path, **options)
    message = str(error.value)
    assert message.startswith(str(path)) and len(message) < 1000
    return message.removeprefix(str(path)).strip()


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


# --- round trips ---------------------------------------------------------------------------------

NUMBERS = {
    "half": np.array([[1.5, -2.0]], np.float16),
    "double": np.array(np.pi),
    "int": np.arange(-3, 3, dtype=np.int64).reshape(2, 3),
    "byte": np.array([0, 255], np.uint8),
    "flag": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
    "inf": np.array([np.nan, np.inf], np.float32),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path: Path, compressed: bool) -> None:
    content = {**wb.arrays(), **NUMBERS, "turned": np.asfortranarray(np.eye(3)[:2])}
    found = read(written(tmp_path, wb.npz(content, compressed)))
    assert found.kind == "npz" and found.path == tmp_path / "the.weights"
    assert_same(found.arrays, content)


def test_npz_of_another_byte_order(tmp_path: Path) -> None:
    content = {"w": np.arange(6, dtype=">f8").reshape(2, 3)}
    found = read(written(tmp_path, wb.npz(content))).arrays
    assert_same(found, {"w": np.arange(6.0).reshape(2, 3)})


def test_npz_as_python_2_wrote_it(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    content = wb.archive({"w.npy": wb.npy("(2L, 3L)", data.tobytes())})
    assert_same(read(written(tmp_path, content)).arrays, {"w": data.reshape(2, 3)})


def test_safetensors(tmp_path: Path) -> None:
    content = {**wb.arrays(), **NUMBERS, "bf16": np.arange(4, dtype=ml_dtypes.bfloat16)}
    found = read(written(tmp_path, wb.safetensors_file(content)))
    assert found.kind == "safetensors"
    assert_same(found.arrays, content)


def test_a_safetensors_header_that_begins_like_a_pickle(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x280)
    content = wb.safetensors_raw(header, np.float32(7).tobytes())
    assert content.startswith(b"\x80\x02")
    assert_same(read(written(tmp_path, content)).arrays, {"w": np.array([7], np.float32)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_caffemodel(tmp_path: Path, dtype: type) -> None:
    content = {name: array.astype(dtype) for name, array in wb.arrays().items()}
    found = read(written(tmp_path, wb.caffemodel(content)))
    assert found.kind == "caffemodel"
    assert_same(found.arrays, content)


def test_caffemodel_of_before_2014_has_four_axes(tmp_path: Path) -> None:
    content = wb.arrays()
    found = read(written(tmp_path, wb.caffemodel(content, v1=True))).arrays
    expected = {name: a.reshape((1,) * (4 - a.ndim) + a.shape) for name, a in content.items()}
    assert_same(found, expected)


def test_caffemodel_with_its_values_in_two_pieces(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    shape = wb.field(7, wb.field(1, bytes([2, 3])))
    blob = wb.field(5, values[:2].tobytes()) + shape + wb.field(5, values[2:].tobytes())
    found = read(written(tmp_path, wb.layer("conv", blob))).arrays
    assert_same(found, {"conv/0": values.reshape(2, 3)})


@pytest.mark.parametrize("kind", sorted(wb.sound()))
def test_float32_on_request(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, wb.sound()[kind])
    stored, found = read(path).arrays, read(path, float32=True).arrays
    for name, array in stored.items():
        floating = array.dtype.kind != "i"
        assert found[name].dtype == (np.float32 if floating else array.dtype)
        np.testing.assert_array_equal(found[name], array.astype(found[name].dtype))


def test_a_double_that_float32_cannot_hold(tmp_path: Path) -> None:
    content = wb.npz({"w": np.array([1.0, 1e300, np.inf])})
    assert read(written(tmp_path, content)).arrays["w"][1] == 1e300
    assert "values in 'w' that float32 cannot hold" in refusal(tmp_path, content, float32=True)


# --- other files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: download or write it again"),
        (pickle.dumps({"w": [1.0]}), "is a pickle, as PyTorch's .pt and .pth files are, which can"),
        (wb.archive({"model/data.pkl": b"", "model/data/0": b""}), "is a PyTorch file, in it a"),
        (wb.archive({"config.json": b"{}"}), "is a zip archive with 'config.json' in it, which is"),
        (wb.archive({}), "holds no array: give the file with the weights"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, which is not read here; convert it"),
        (wb.npy("(1,)", bytes(4)), "is a single .npy array: write all arrays to one file"),
        (gzip.compress(b"weights"), "is compressed with gzip: unpack it"),
        (b"version https://x\noid sha256:0\nsize 9\n", "is a Git LFS pointer, not the file"),
        (b"<!DOCTYPE html>", "is a web page, as servers send instead of a file: download"),
        (b'{"weight_map": {}}', "is JSON: if it is the index of a checkpoint in several files"),
        (b'name: "VGG"\nlayer {\n}\n', "is text: give the weights (for a .prototxt, the"),
        (
            b"\xff\x00\x01",
            "is neither a safetensors nor a Caffe nor an .npz file (it begins with ff",
        ),
        (wb.field(1, b"Net"), "holds no array: give the file with the weights"),
        (wb.safetensors_raw({}), "holds no array: give the file with the weights"),
    ],
    ids=label,
)
def test_what_else_a_file_can_be(tmp_path: Path, content: bytes, reason: str) -> None:
    assert refusal(tmp_path, content).startswith(reason)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps([1]), wb.archive({"a/data.pkl": b""}), b"\x89HDF\r\n\x1a\n"],
    ids=["pickle", "zip", "hdf5"],
)
def test_the_line_that_converts_is_python(tmp_path: Path, content: bytes) -> None:
    message = refusal(tmp_path, content)
    code = message.partition("python -c '")[2].rpartition("'")[0]
    compile(code, "line", "exec")
    assert "model.safetensors" in code or "model.npz" in code


def test_no_file_a_directory_and_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no weight file .*absent: check the"):
        read(tmp_path / "absent")
    with pytest.raises(ValueError, match="is a directory: give a weight file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file: give a weight file"):
        read(tmp_path / "pipe")
    with pytest.raises(ValueError, match="cannot be opened"):
        read(tmp_path / ("long" * 1000))


@pytest.mark.parametrize("kind", ["safetensors", "caffemodel"])
def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, wb.sound()[kind])
    code = (
        "import sys\nfrom excitation_jax.models.weight_files import read\n"
        "sys.modules.update({'safetensors': None, 'google.protobuf.message': None})\n"
        f"try: read({str(path)!r})\nexcept ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{path} " in run.stdout
    assert "pip install 'excitation-jax[weights]'" in run.stdout


# --- damaged and crafted files -------------------------------------------------------------------

F32 = wb.entry("F32", [2], 0, 8)
TERA = 2**40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wb.safetensors_raw({"w": F32}, bytes(7)), "7 bytes of arrays and declares 8"),
        (wb.safetensors_raw({"w": F32}, bytes(9)), "9 bytes of arrays and declares 8"),
        (wb.safetensors_raw({"v": F32, "w": F32}, bytes(8)), "'w' begins at 0, not 8"),
        (wb.safetensors_raw({"w": wb.entry("F32", [3], 0, 8)}, bytes(8)), "takes 8 bytes, not 12"),
        (wb.safetensors_raw({"w": wb.entry("F32", [-2], 0, 8)}, bytes(8)), "that no array has"),
        (wb.safetensors_raw({"w": wb.entry("F32", [True], 0, 4)}, bytes(4)), "is not described"),
        (wb.safetensors_raw({"w": wb.entry("F8_E4M3", [2], 0, 2)}), "dtype 'F8_E4M3', which is"),
        (wb.safetensors_raw({"w": 3}), "'w' is not described by a dtype"),
        (wb.safetensors_raw({"../w": F32}, bytes(8)), "unusable name '../w'"),
        (wb.safetensors_raw(b'{"w":1,"w":2}'), "its header has the same name twice"),
        (wb.safetensors_raw(b'{"a":' + b"[" * 9999), "its header is not JSON"),
        (wb.safetensors_raw(b"{}", length=TERA), f"declares a header of {TERA} bytes and has 10"),
        (wb.safetensors_raw({"w": wb.entry("F32", [1] * 33, 0, 4)}, bytes(4)), "no array has"),
        (wb.archive({"w.npy": wb.npy("(2,)", bytes(7))}), "'w' has 75 bytes, not 76"),
        (wb.archive({"w.npy": b"weights"}), "'w' is no .npy array"),
        (wb.archive({"w.npy": wb.npy("(2,)", bytes(8), "[('a', '<f4')]")}), "for plain numbers"),
        (wb.archive({"w.npy": wb.npy("(1,)", bytes(8), "'|O'")}), "pickled Python objects in 'w'"),
        (wb.archive({"w.npy": wb.npy("(1,)", bytes(8), "'<M8[s]'")}), "with the dtype '<M8[s]'"),
        (wb.archive({"w.npy": wb.npy("(__import__('os'),)")}), "header that numpy does not write"),
        (wb.archive({"w.npy": wb.npy("(1, , 2)")}), "a shape that numpy does not write"),
        (wb.archive({"/etc/w.npy": wb.npy("()", bytes(4))}), "unusable name '/etc/w'"),
        (wb.archive({"a/../../w.npy": wb.npy("()", bytes(4))}), "unusable name 'a/../../w'"),
        (wb.archive({"w.npy": b"x"}, zipfile.ZIP_LZMA), "by a method that numpy does not write"),
        (wb.layer("c", wb.field(7, wb.field(1, b"\x03")) + wb.field(5, bytes(8))), "has 8 bytes"),
        (wb.layer("c", wb.field(5, bytes(8)) + wb.field(8, bytes(8))), "floats and doubles"),
        (wb.layer("c", wb.field(7, wb.field(1, bytes([1] * 33)))), "has 33 axes"),
        (wb.layer("../c", wb.blob(np.zeros(1, "f4"))), "unusable name '../c/0'"),
        (wb.layer("c", wb.blob(np.zeros(1, "f4"))) * 2, "holds the array 'c/0' twice"),
        (wb.field(100, wb.field(1, b"\xff")), "a layer's name is not UTF-8"),
        (wb.field(2, wb.field(1, b"")), "is a Caffe model of before 2013: convert it with Caffe's"),
        (wb.field(1, b"Net") + b"\xa2\x06\x7f", "protobuf cannot parse it"),
    ],
    ids=label,
)
def test_a_damaged_file(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


# A TB and more in a size, in a product of sizes, in a header's length and beside a zero.
HUGE = {
    "safetensors": wb.safetensors_raw({"w": wb.entry("F32", [TERA // 4], 0, TERA)}),
    "safetensors empty": wb.safetensors_raw({"w": wb.entry("F32", [0, 2**62], 0, 0)}),
    "npz": wb.archive({"w.npy": wb.npy(f"({TERA // 4},)")}),
    "npz axes": wb.archive({"w.npy": wb.npy("(" + "9999999, " * 99 + ")")}),
    "npz header": wb.archive({"w.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f"}),
    "npz empty": wb.archive({"w.npy": wb.npy(f"(0, {2**62})")}),
    "caffemodel": wb.layer("c", wb.field(7, wb.field(1, wb.varint(TERA // 4)))),
    "caffemodel v1": wb.layer("c", b"".join(wb.integer(i, 2**31 - 1) for i in (1, 2, 3, 4))),
    "caffemodel negative": wb.layer("c", wb.field(7, wb.field(1, wb.varint(-1)))),
    "caffemodel length": wb.field(1, b"Net") + b"\xa2\x06" + wb.varint(TERA),
}


@pytest.mark.parametrize("limit", [2**32, 2**70])
@pytest.mark.parametrize("kind", HUGE)
def test_a_small_file_that_declares_terabytes_costs_nothing(
    tmp_path: Path, kind: str, limit: int
) -> None:
    assert len(HUGE[kind]) < 1100
    refusal(tmp_path, HUGE[kind])  # imports what it imports
    tracemalloc.start()
    try:
        refusal(tmp_path, HUGE[kind], limit=limit)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_decompression_bomb(tmp_path: Path) -> None:
    zeros = wb.npy(f"({2**24},)", bytes(2**26))
    bomb = wb.archive({"w.npy": zeros}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**17
    many = wb.archive({f"{i}.npy": wb.npy("(256,)", bytes(2**10)) for i in range(99)})
    # The archive says how much to expect; what it does not say is not waited for.
    lying = bomb.replace(len(zeros).to_bytes(4, "little"), (len(zeros) * 60).to_bytes(4, "little"))
    tracemalloc.start()
    try:
        assert "more than the limit of 67108863 bytes" in refusal(tmp_path, bomb, limit=2**26 - 1)
        assert "the limit of 65536 bytes, at the array '64'" in refusal(tmp_path, many, limit=2**16)
        assert "bytes, not" in refusal(tmp_path, lying)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", sorted(wb.sound()))
def test_the_limit_counts_every_array(tmp_path: Path, kind: str) -> None:
    content = wb.sound()[kind]
    arrays = read(written(tmp_path, content)).arrays
    total = sum(array.nbytes for array in arrays.values())
    assert "limit of" in refusal(tmp_path, content, limit=total - 1)
    read(written(tmp_path, content), limit=len(content))
