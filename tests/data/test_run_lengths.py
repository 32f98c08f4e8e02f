"""COCO's run-length codes, against pycocotools and loops over pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from excitation_jax.data.run_lengths import area_and_box, decompressed, mask_of, read_runs


@st.composite
def masks(draw):
    """Sparse masks, full ones, and ones of whole columns: boolean (height, width)."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0, 0.01, 0.3, 1]))
    if draw(st.booleans()):
        mask[:, rng.integers(width) :] = draw(st.booleans())
    return mask


@settings(max_examples=150, deadline=None)
@given(masks())
def test_codes_are_those_of_pycocotools(mask):
    size = mask.shape
    code = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = read_runs({**code, "counts": code["counts"].decode()}, size, "a mask")
    assert (decompressed(code["counts"]) == runs).all()
    assert (read_runs({"counts": runs.tolist()}, size, "a mask") == runs).all()
    assert (mask_of(runs, size) == mask).all()
    area, box = area_and_box(runs, size)
    rows, columns = np.nonzero(mask)
    assert area == mask.sum() == len(rows)
    if area:
        assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    else:
        assert box == (0, 0, 0, 0)


@pytest.mark.parametrize("code", [b"", b"P", b"1P", b"\x2f", b"p", b"Q" * 8 + b"0", b"@"])
def test_what_is_no_code_is_refused(code):
    """Empty, cut off, of other characters, longer than a length can be, or negative."""
    with pytest.raises(ValueError):
        decompressed(code)


@pytest.mark.parametrize("code", [None, [4], {"counts": [[4]]}, {"counts": []}, {"size": [2, 2]}])
def test_what_holds_no_code_is_named(code):
    with pytest.raises(ValueError, match=r"line 3 has a run-length code .* are \(2, 2\): correct"):
        read_runs(code, (2, 2), "line 3")
