"""Whatever is in a file, `read` returns arrays or raises an error with the file's name in it.

Files are mutated, put together from wrong parts, and random. Everything is drawn by hypothesis
but the deterministic test of every byte, and each input is checked in `outcome`.
"""

import gc
import json
import math
import pickle
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import weight_bytes as wb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from excitation_jax.models.weight_files import read

LIMIT = 2**20
SOUND = wb.sound()
NET = wb.field(1, b"Net")


def fuzz(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(folder: Path, content: bytes, limit: int = LIMIT) -> dict[str, np.ndarray] | None:
    """The arrays that `read` finds, or None after the right kind of error; all else fails."""
    path = folder / "some.weights"
    path.write_bytes(content)
    # CPU time of this thread, which other processes on the machine do not lengthen; nor must a
    # search for garbage among what all tests before have left.
    gc.disable()
    start = time.thread_time()
    try:
        arrays = read(path, limit).arrays
    except (ValueError, FileNotFoundError) as error:
        arrays = None
        assert str(error).startswith(f"{path} ")
        assert len(str(error)) < len(str(path)) + 1000
        assert str(error).isprintable()
    finally:
        spent = time.thread_time() - start
        gc.enable()
    assert spent < 1
    if arrays is not None:
        assert arrays
        assert sum(array.nbytes for array in arrays.values()) <= limit
        for name, array in arrays.items():
            assert array.dtype.kind in "biufV" and not array.dtype.hasobject
            assert name and ".." not in name.split("/") and not name.startswith("/")
    return arrays


# --- damage to sound files -----------------------------------------------------------------------

# Numbers that lengths, sizes and offsets become.
NUMBERS = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound file after one to four changes, each anywhere in it."""
    content = SOUND[draw(st.sampled_from(sorted(SOUND)))]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 64)))
        match draw(st.integers(0, 7)):
            case 0:
                changed = bytes([draw(st.integers(1, 255))])
                part = bytes(
                    a ^ b for a, b in zip(content[start : start + 1], changed, strict=False)
                )
                content = content[:start] + part + content[start + 1 :]
            case 1:
                content = content[:start]
            case 2:
                content = content[:start] + content[end:]
            case 3:
                content = (
                    content[:end] + content[start:end] * draw(st.integers(1, 40)) + content[end:]
                )
            case 4:
                other = SOUND[draw(st.sampled_from(sorted(SOUND)))]
                begin = draw(st.integers(0, len(other)))
                content = content[:start] + other[begin : begin + 200] + content[start:]
            case 5:
                width = draw(st.sampled_from([2, 4, 8]))
                number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * width)
                part = number.to_bytes(width, "little")
                content = content[:start] + part + content[start + width :]
            case 6:
                content = content[:start] + draw(st.binary(max_size=32)) + content[start:]
            case 7:
                digits = str(draw(st.sampled_from(NUMBERS))).encode()
                content = content[:start] + digits + content[start + 1 :]
    return content


@pytest.mark.slow
@fuzz(8000)
@given(mutated())
def test_mutated_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    outcome(tmp_path_factory.getbasetemp(), content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(SOUND))
def test_every_byte_changed_and_every_end_cut(tmp_path: Path, kind: str) -> None:
    content = SOUND[kind]
    before = outcome(tmp_path, content)
    assert before is not None
    for position in range(len(content)):
        assert outcome(tmp_path, content[:position]) is None or "caffe" in kind
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        after = outcome(tmp_path, bytes(changed))
        if after is not None and kind.startswith("npz"):  # which alone has checksums
            for name in before:
                np.testing.assert_array_equal(after[name], before[name])


# --- sound containers with wrong content ---------------------------------------------------------

names = st.one_of(
    st.sampled_from(["w", "a/b", "", "/w", "../w", "a/../../w", "a\\b", "\0", "C:w", "data.pkl"]),
    st.text(max_size=12),
)
# zipfile and UTF-8 cannot write every name; most of these are sound.
printable = st.text("aéw", min_size=1, max_size=6) | st.text("aé./\\:w", max_size=6)
sizes = st.one_of(st.integers(0, 4), st.integers(-(2**70), 2**70), st.sampled_from(NUMBERS))
shapes = st.one_of(
    st.lists(st.integers(0, 4), max_size=3), st.lists(sizes, max_size=4), st.just([1] * 99)
)
anything = st.recursive(
    st.none() | st.booleans() | sizes | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
dtypes = st.sampled_from(["F32", "F64", "F16", "BF16", "I8", "BOOL", "U64", "F8_E5M2", "C64", "f4"])
places = st.one_of(st.lists(st.integers(0, 64), min_size=2, max_size=2), st.lists(sizes))
entries = st.one_of(
    anything,
    st.fixed_dictionaries({"dtype": dtypes, "shape": shapes, "data_offsets": places}),
    # One that fits, whatever is around it.
    st.integers(0, 8).map(lambda size: wb.entry("F32", [size], 0, 4 * size)),
)
lengths = st.one_of(*[st.none()] * 6, st.sampled_from(NUMBERS), st.integers(0, 99))


@st.composite
def laid_out(draw: st.DrawFn) -> bytes:
    """Arrays one after the other, as they should be, or all but for one field."""
    header, end = {}, 0
    for name in draw(st.lists(printable, unique=True, max_size=3)):
        dtype, size = draw(st.sampled_from([("F32", 4), ("BF16", 2), ("I8", 1), ("F64", 8)]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + size * math.prod(shape)
        header[name] = wb.entry(dtype, shape, begin, end)
    if header and draw(st.booleans()):
        changed = header[draw(st.sampled_from(sorted(header)))]
        part = draw(st.sampled_from(sorted(changed)))
        changed[part] = draw(anything | shapes)
    return wb.safetensors_raw(json.dumps(header).encode(), bytes(end))


@pytest.mark.slow
@fuzz(2000)
@given(laid_out())
def test_safetensors_layouts(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    outcome(tmp_path_factory.getbasetemp(), content)


@pytest.mark.slow
@fuzz(3000)
@given(st.dictionaries(names, entries, max_size=3) | anything, st.binary(max_size=64), lengths)
def test_safetensors_headers(
    tmp_path_factory: pytest.TempPathFactory, header: object, data: bytes, length: int | None
) -> None:
    content = wb.safetensors_raw(json.dumps(header).encode(), data, length)
    outcome(tmp_path_factory.getbasetemp(), content)


descriptions = st.sampled_from(
    ["'<f4'", "'>f8'", "'|b1'", "'|u1'", "'<f2'", "'|O'", "'|V2'", "'<M8[s]'", "'<f16'", "'<c8'"]
    + ["'|S9'", "[('a', '<f4')]", "'f4'", "''", "'<f999999999'", "None", "__import__('os')", "'?'"]
)
members = st.one_of(
    st.binary(max_size=80),
    st.builds(
        wb.npy,
        shapes.map(tuple) | st.text("(),L 0123456789-e", max_size=12) | anything,
        st.binary(max_size=40),
        descriptions,
        st.sampled_from([True, False, 0, "[]"]),
    ),
    st.integers(0, 9).map(lambda size: wb.npy(f"({size},)", bytes(4 * size))),
    st.binary(max_size=20).map(lambda rest: b"\x93NUMPY\x02\x00" + rest),
)
methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 4 + [zipfile.ZIP_LZMA])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A zip archive of .npy files, in its directory possibly other sizes than it has."""
    content = draw(st.dictionaries(printable.map(lambda n: n + ".npy"), members, max_size=3))
    packed = wb.archive(content, draw(methods))
    directory = packed.find(b"PK\x01\x02")
    if content and draw(st.booleans()):
        # The fields of a member in the directory, from its version to its offset.
        at = directory + draw(st.sampled_from([4, 6, 8, 10, 16, 20, 24, 28, 30, 32, 42]))
        number = draw(st.sampled_from(NUMBERS)) % 2**32
        packed = packed[:at] + number.to_bytes(4, "little") + packed[at + 4 :]
    return packed


@pytest.mark.slow
@fuzz(3000)
@given(archives())
def test_npz_members(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    outcome(tmp_path_factory.getbasetemp(), content)


def messages(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Serialised messages of fields with any number and any wire type, some of them wrong."""
    numbers = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 2**29 - 1])
    field = st.one_of(
        st.builds(wb.field, numbers, inner),
        st.builds(wb.integer, numbers, sizes),
        st.builds(lambda n, rest: wb.varint(n << 3 | 5) + rest, numbers, st.binary(max_size=4)),
        st.builds(lambda n, kind: wb.varint(n << 3 | kind), numbers, st.integers(0, 7)),
    )
    return st.lists(field, max_size=3).map(b"".join)


def shaped(shape: list[int], data: bytes) -> bytes:
    """A BlobProto with a shape and values that need not be that many."""
    return wb.field(7, wb.field(1, b"".join(map(wb.varint, shape)))) + wb.field(5, data)


# Layers of blobs, of which any part may be any message.
junk = messages(st.binary(max_size=8) | messages(st.just(b"")))
blobs = st.one_of(
    junk,
    st.integers(0, 5).map(lambda size: wb.blob(np.zeros(size, np.float32))),
    st.builds(shaped, shapes, st.binary(max_size=16)),
)
layers = st.builds(
    lambda name, content, v1: wb.layer(name, *content, v1=v1),
    printable,
    st.lists(blobs, max_size=2),
    st.booleans(),
)
caffemodels = st.lists(layers | junk, max_size=2).map(lambda parts: b"".join([NET, *parts]))


@pytest.mark.slow
@fuzz(3000)
@given(caffemodels)
def test_caffe_layers(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    outcome(tmp_path_factory.getbasetemp(), content)


# --- files of no format --------------------------------------------------------------------------

STARTS = [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x04", b"\x0a\x03Net", b"\xa2\x06", b"\x12"]
STARTS += [b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"\x40\0\0\0\0\0\0\0{", b"{", b"<", b"\x1f\x8b"]


@pytest.mark.slow
@fuzz(1500)
@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, content: bytes
) -> None:
    outcome(tmp_path_factory.getbasetemp(), start + content)


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.slow
@fuzz(500)
@given(anything, st.integers(0, 5), st.integers(0, 2))
def test_pickles(
    tmp_path_factory: pytest.TempPathFactory, content: object, protocol: int, place: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    trace = folder / "trace"
    pickled = pickle.dumps([content, Intruder(trace)], protocol)
    if place == 1:
        pickled = wb.archive({"model/data.pkl": pickled})
    elif place == 2:
        pickled = wb.archive({"w.npy": wb.npy("(1,)", pickled, "'|O'")})
    assert outcome(folder, pickled) is None
    assert not trace.exists()


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.slow
@fuzz(400)
@given(mutated() | archives() | laid_out() | caffemodels)
def test_memory_follows_the_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    tracemalloc.start()
    try:
        outcome(tmp_path_factory.getbasetemp(), content, limit=2**62)
        # The modules of the formats are imported the first time; a small file takes little else.
        assert tracemalloc.get_traced_memory()[1] < 2**22 + 1100 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["layers", "blobs"])
def test_memory_that_tracemalloc_does_not_see(tmp_path: Path, part: str) -> None:
    """Protobuf allocates beside Python: half a million empty messages, in a process of its own."""
    empty = wb.field(7, b"") * 2**19
    content = wb.field(100, b"") * 2**19 if part == "layers" else wb.field(100, empty)
    (tmp_path / "small").write_bytes(SOUND["caffemodel"])
    (tmp_path / "large").write_bytes(content)
    code = (
        "import resource, sys\nfrom excitation_jax.models.weight_files import read\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read(sys.argv[1])\nbefore = peak()\n"
        "try: read(sys.argv[2])\nexcept ValueError: print(peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "small", tmp_path / "large"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 40 * len(content) / 1024
