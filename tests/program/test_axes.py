"""Where cells lie: `Layer.offset` and `Layer.stride` against receptive fields, found in numpy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej

LENGTH = 96
Model = Callable[[jax.Array], jax.Array]


class Step(NamedTuple):
    """An operation on signals (N, L, 1), and what each of L cells sees: (L, pixels + 1).

    stride: of its cells, in elements of what it reads. blurred: elements that a cell may be off the
    middle of what it depends on, where what a dilation has put between elements counts as seen.
    """

    name: str
    apply: Callable[[jax.Array], jax.Array]
    seen: Callable[[np.ndarray], np.ndarray]
    stride: Fraction = Fraction(1)
    blurred: Fraction = Fraction(0)


def bordered(seen: np.ndarray, low: int, high: int) -> np.ndarray:
    """With cells around that see none of the pixels, but the border, which is the last column."""
    found = np.pad(seen, ((low, high), (0, 0)))
    found[[*range(low), *range(len(found) - high, len(found))], -1] = True
    return found


def windows(
    seen: np.ndarray, width: int, stride: int, low: int, high: int, hole: int, dilation: int
) -> np.ndarray:
    """What windows see, by what the cells in them see."""
    apart = np.zeros(((len(seen) - 1) * dilation + 1, seen.shape[1]), bool)
    apart[::dilation] = seen
    padded = bordered(apart, low, high)
    starts = range(0, len(padded) - (width - 1) * hole, stride)
    return np.array([padded[i : i + (width - 1) * hole + 1 : hole].any(0) for i in starts])


def conv(
    x: jax.Array, width: int = 3, stride: int = 1, padding: str | tuple[int, int] = "SAME"
) -> jax.Array:
    edges = padding if isinstance(padding, str) else [padding]
    numbers = ("NWC", "WIO", "NWC")
    kernel = jnp.ones((width, 1, 1))
    return lax.conv_general_dilated(x, kernel, (stride,), edges, dimension_numbers=numbers)


@st.composite
def convolutions(draw: st.DrawFn) -> Step:
    width, hole = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    dilation = draw(st.sampled_from([1, 1, 1, 2]))
    stride = draw(st.integers(1, 3)) if dilation == 1 else 1
    kernel = jnp.ones((width, 1, 1))
    options = dict(lhs_dilation=(dilation,), rhs_dilation=(hole,))
    numbers = dict(dimension_numbers=("NWC", "WIO", "NWC"))

    def apply(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (stride,), [(low, high)], **options, **numbers)

    def seen(cells: np.ndarray) -> np.ndarray:
        return windows(cells, width, stride, low, high, hole, dilation)

    name = f"conv {width}/{stride} pad {low},{high} holes {hole} dilated {dilation}"
    return Step(name, apply, seen, Fraction(stride, dilation), Fraction(dilation - 1, dilation))


@st.composite
def pools(draw: st.DrawFn) -> Step:
    width, stride, hole = draw(st.integers(2, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    low, high = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    largest = draw(st.booleans())
    start, combine = (-jnp.inf, lax.max) if largest else (0.0, lax.add)

    def apply(x: jax.Array) -> jax.Array:
        padding = [(0, 0), (low, high), (0, 0)]
        sizes, steps, holes = (1, width, 1), (1, stride, 1), (1, hole, 1)
        return lax.reduce_window(x, start, combine, sizes, steps, padding, None, holes)

    def seen(cells: np.ndarray) -> np.ndarray:
        return windows(cells, width, stride, low, high, hole, 1)

    return Step(
        f"pool {width}/{stride} pad {low},{high} holes {hole}", apply, seen, Fraction(stride)
    )


@st.composite
def paddings(draw: st.DrawFn) -> Step:
    low, high = draw(st.integers(-2, 2)), draw(st.integers(-2, 2))
    inner = draw(st.sampled_from([0, 0, 1]))

    def apply(x: jax.Array) -> jax.Array:
        padded = lax.pad(x, 0.0, [(0, 0, 0), (low, high, inner), (0, 0, 0)])
        return conv(padded, inner + 1, 1, "VALID")

    def seen(cells: np.ndarray) -> np.ndarray:
        apart = np.zeros(((len(cells) - 1) * (inner + 1) + 1, cells.shape[1]), bool)
        apart[:: inner + 1] = cells
        cut = apart[max(-low, 0) : len(apart) - max(-high, 0)]
        return windows(bordered(cut, max(low, 0), max(high, 0)), inner + 1, 1, 0, 0, 1, 1)

    name = f"pad {low},{high},{inner}"
    return Step(name, apply, seen, Fraction(1, inner + 1), Fraction(inner, inner + 1))


@st.composite
def cuts(draw: st.DrawFn) -> Step:
    start, end, stride = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
    ways: dict[str, Model] = {
        "slice": lambda x: x[:, start : x.shape[1] - end : stride],
        "take": lambda x: jnp.take(x, jnp.arange(start, x.shape[1] - end, stride), axis=1),
    }
    if stride == 1:
        ways |= {
            "split": lambda x: jnp.split(x, [start, x.shape[1] - end], axis=1)[1],
            "dynamic": lambda x: lax.dynamic_slice(
                x, (0, start, 0), (x.shape[0], x.shape[1] - start - end, 1)
            ),
        }
    name = draw(st.sampled_from(sorted(ways)))
    return Step(
        f"{name} {start},{end},{stride}",
        ways[name],
        lambda cells: cells[start : len(cells) - end : stride],
        Fraction(stride),
    )


def _patched(x: jax.Array) -> jax.Array:
    """Sums of three neighbours, without a window."""
    whole = x[:, : x.shape[1] // 3 * 3]
    return whole.reshape(len(x), -1, 3).sum(axis=2)[..., None]


def _of_patches(x: jax.Array) -> jax.Array:
    """The last of each three neighbours."""
    whole = x[:, : x.shape[1] // 3 * 3]
    return whole.reshape(len(x), -1, 3, 1)[:, :, 2]


def _placed(x: jax.Array) -> jax.Array:
    return jnp.zeros((len(x), x.shape[1] + 3, 1)).at[:, 2:-1].set(x)


def _updated(x: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(jnp.zeros((len(x), x.shape[1] + 3, 1)), x, (0, 2, 0))


def _again(x: jax.Array) -> jax.Array:
    """In pieces, and in one piece again."""
    return jnp.concatenate([x[:, :5], x[:, 5:]], axis=1)


def _after_zeros(x: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.zeros((len(x), 2, 1)), x], axis=1)


def _repeated(x: jax.Array) -> jax.Array:
    return jax.image.resize(x, (len(x), 2 * x.shape[1], 1), "nearest")


def _interpolated(x: jax.Array) -> jax.Array:
    return jax.image.resize(x, (len(x), 2 * x.shape[1], 1), "linear")


def _between(cells: np.ndarray) -> np.ndarray:
    """Each pixel of an image twice as large lies between two."""
    found = np.repeat(cells, 2, axis=0)
    found[2::2] |= cells[:-1]
    found[1:-1:2] |= cells[1:]
    return found


THREE, HALF = Fraction(3), Fraction(1, 2)
FIXED = st.sampled_from(
    [
        Step("flip", lambda x: x[:, ::-1], lambda cells: cells[::-1], Fraction(-1)),
        Step("patches", _patched, lambda cells: windows(cells, 3, 3, 0, 0, 1, 1), THREE),
        Step("last of three", _of_patches, lambda cells: cells[: len(cells) // 3 * 3][2::3], THREE),
        Step("at", _placed, lambda cells: bordered(cells, 2, 1)),
        Step("update", _updated, lambda cells: bordered(cells, 2, 1)),
        Step("pieces", _again, lambda cells: cells),
        Step("after zeros", _after_zeros, lambda cells: bordered(cells, 2, 0)),
        Step("repeated", _repeated, lambda cells: np.repeat(cells, 2, axis=0), HALF, HALF),
        Step("interpolated", _interpolated, _between, HALF, HALF),
        Step("turned twice", lambda x: x.swapaxes(1, 2).swapaxes(1, 2), lambda cells: cells),
    ]
)
STEPS = st.one_of(convolutions(), pools(), paddings(), cuts(), FIXED)


def read(model: Model, length: int = LENGTH) -> ej.Layer:
    """The layer "end", of a model that takes (1, length, 1)."""

    def whole(params: Any, x: jax.Array) -> jax.Array:
        return ej.tag(jax.nn.relu(model(x)), "end").sum((1, 2))[:, None]

    table = ej.layers(whole, None, jax.ShapeDtypeStruct((1, length, 1), jnp.float32))
    (layer,) = (layer for layer in table if layer.name == "end")
    return layer


def offset(model: Model, length: int = LENGTH) -> Fraction | None:
    (found,) = read(model, length).offset
    return found


@settings(max_examples=80, deadline=None)
@given(first=convolutions(), others=st.lists(STEPS, max_size=5))
def test_cells_lie_at_the_centres_of_their_receptive_fields(
    first: Step, others: list[Step]
) -> None:
    steps = [first, *others]
    seen = np.eye(LENGTH, LENGTH + 1, dtype=bool)
    stride, blurred = Fraction(1), Fraction(0)
    for step in steps:
        seen = step.seen(seen)
        blurred += step.blurred * abs(stride)
        stride *= step.stride
        assume(6 <= len(seen) <= 400)
        assume(seen.any(axis=1).all())  # a cell that sees nothing lies nowhere

    def model(x: jax.Array) -> jax.Array:
        for step in steps:
            x = step.apply(x)
        return x

    layer = read(model)
    assert layer.shape == (1, len(seen), 1) and layer.stride == (stride,)
    (start,) = layer.offset
    assert start is not None
    for i, (*pixels, outside) in enumerate(seen):
        if not outside:
            places = np.flatnonzero(pixels)
            middle = (places[0] + places[-1]) / 2
            assert abs(float(start + i * stride) - middle) <= float(blurred) + 1e-9


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (lambda x: conv(conv(x, 3, 2, (1, 1)), 3, 2, (1, 1)), 0),  # torch's padding
        (lambda x: conv(conv(x, 3, 2), 3, 2), 3),  # 'SAME' of an even length
        (lambda x: conv(x, 16, 16, "VALID"), 7.5),  # a ViT's patches
        (lambda x: conv(x, 7, 2, (3, 3)), 0),
        (lambda x: conv(x, 7, 2, "VALID"), 3),
    ],
)
def test_known_offsets(model: Model, wanted: float) -> None:
    assert offset(model) == wanted


def test_patches_by_reshape_lie_where_those_of_a_convolution_do() -> None:
    kernel = jnp.ones((16, 1))

    def cut_out(x: jax.Array) -> jax.Array:
        return (x.reshape(1, -1, 16) @ kernel)[..., 0][..., None]

    layer = read(cut_out)
    assert layer.stride == (16,) and layer.offset == (Fraction(15, 2),)


def test_a_sum_of_branches_lies_midway_however_it_is_grouped() -> None:
    def branches(x: jax.Array) -> list[jax.Array]:
        return [conv(x, 1, 2, "VALID"), conv(x, 3, 2, (0, 1)), conv(x, 5, 2, (0, 3))]

    def left(x: jax.Array) -> jax.Array:
        a, b, c = branches(x)
        return (a + b) + c

    def right(x: jax.Array) -> jax.Array:
        a, b, c = branches(x)
        return a + (b + (c + a))

    assert [offset(lambda x, i=i: branches(x)[i]) for i in range(3)] == [0, 1, 2]  # type: ignore[misc]
    assert offset(left) == offset(right) == 1
    assert offset(lambda x: jnp.concatenate(branches(x)[:2], axis=2).sum(2, keepdims=True)) == 0.5


def test_branches_of_a_cond_count_as_those_of_a_sum() -> None:
    def either(x: jax.Array) -> jax.Array:
        ways = [lambda x: conv(x, 1, 2, "VALID"), lambda x: conv(x, 3, 2, (0, 1))]
        return lax.cond(x.sum() > 0, *ways, x)

    assert offset(either) == HALF


@pytest.mark.parametrize(
    ("steps", "edges", "wanted"), [(4, (1, 1), 0), (1, (0, 2), 1), (4, (0, 2), None)]
)
def test_a_carry_that_moves_from_step_to_step_lies_nowhere(
    steps: int, edges: tuple[int, int], wanted: int | None
) -> None:
    def looped(x: jax.Array) -> jax.Array:
        def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return conv(carry, 3, 1, edges), None

        return lax.scan(step, x, None, length=steps)[0]

    assert offset(looped) == wanted


UNKNOWN: dict[str, Model] = {
    "shuffled": lambda x: jnp.take(conv(x), jnp.asarray([5, 1, 4, 0, 2, 9]), axis=1),
    "where the input says": lambda x: lax.dynamic_slice(
        conv(x), (0, (x[0, 0, 0] > 0).astype(int), 0), (1, 50, 1)
    ),
    "joined in another order": lambda x: jnp.concatenate(
        [conv(x)[:, 48:], conv(x)[:, :48]], axis=1
    ),
    "sorted": lambda x: jnp.sort(conv(x), axis=1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    layer = read(UNKNOWN[name])
    assert layer.offset == (None,)


def test_the_table_shows_offsets() -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        x = ej.tag(jax.nn.relu(conv(x, 3, 2)), "known")
        return ej.tag(jnp.sort(x, axis=1), "unknown").sum((1, 2))[:, None]

    rows = [line.split() for line in str(ej.layers(model, None, jnp.ones((1, 8, 1)))).splitlines()]
    assert rows[0][:4] == ["layer", "shape", "stride", "offset"]
    by_name = {row[0]: row for row in rows}
    assert by_name["known"][2:4] == ["2", "1"] and by_name["unknown"][2:4] == ["2", "?"]
