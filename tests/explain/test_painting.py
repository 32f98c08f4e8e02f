"""Where maps are painted: each cell where it looked, or as a plain tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax import maps, methods

SIZE = (61, 74)
NUMBERS = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """Of a convolution along one axis."""

    width: int
    stride: int
    low: int
    high: int


WINDOWS = st.builds(
    Window, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2)
)


def convolve(x: jax.Array, rows: Window, columns: Window) -> jax.Array:
    kernel = jnp.ones((rows.width, columns.width, x.shape[-1], 1))
    edges = [(rows.low, rows.high), (columns.low, columns.high)]
    strides = (rows.stride, columns.stride)
    return lax.conv_general_dilated(x, kernel, strides, edges, dimension_numbers=NUMBERS)


def stack(windows: list[tuple[Window, Window]]) -> Callable[[Any, jax.Array], jax.Array]:
    """A network of convolutions; its outputs are the sum over the last one's positions."""

    def model(params: Any, x: jax.Array) -> jax.Array:
        for rows, columns in windows:
            x = jax.nn.relu(convolve(x, rows, columns))
        return ej.tag(x, "end").sum((1, 2))

    return model


def seen(windows: list[Window], cell: int) -> tuple[int, int]:
    """The first and the last pixel that a cell looks at, padding counted."""
    first = last = cell
    for window in reversed(windows):
        first = first * window.stride - window.low
        last = last * window.stride - window.low + window.width - 1
    return first, last


def layer_of(model: Callable[..., Any], params: Any, x: Any, name: str = "end") -> ej.Layer:
    (found,) = (layer for layer in ej.layers(model, params, x) if layer.name == name)
    return found


@settings(max_examples=20, deadline=None)
@given(
    windows=st.lists(st.tuples(WINDOWS, WINDOWS), min_size=1, max_size=4),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_a_lit_cell_is_brightest_in_the_middle_of_what_it_looked_at(
    windows: list[tuple[Window, Window]], place: tuple[float, float]
) -> None:
    layer = layer_of(stack(windows), None, jax.ShapeDtypeStruct((1, *SIZE, 1), jnp.float32))
    shape = layer.shape[1:3]
    assume(min(shape) >= 3)
    cell = tuple(int(part * length) for part, length in zip(place, shape, strict=True))
    painted = maps.resize(jnp.zeros(shape).at[cell].set(1.0), SIZE, layer.grid)
    ends = [seen([pair[axis] for pair in windows], cell[axis]) for axis in range(2)]
    middles = [sum(both) / 2 for both in ends]
    # What lies in the padding along either axis is painted at the border, or not at all.
    assume(all(0 <= m <= size - 1 for m, size in zip(middles, SIZE, strict=True)))
    for found, middle in zip(map(int, maps.point(painted)), middles, strict=True):
        assert abs(found - middle) <= 0.5


# Four halvings, once with torch's padding and once with 'SAME': a cell looks 7.5 pixels before the
# middle of its plain tile, or after it.
TORCH = [(Window(3, 2, 1, 1),) * 2] * 4
SAME = [(Window(3, 2, 0, 1),) * 2] * 4
IMAGE = jnp.zeros((1, 96, 96, 1)).at[:, 48, 32].set(1.0)


def peak(model: Callable[..., Any], x: jax.Array = IMAGE, **options: Any) -> list[int]:
    options = {"layer": "end", "contrastive": False, "size": "input", **options}
    found = ej.attention_map(model, None, x, 0, **options)
    return [int(place[0]) for place in maps.point(found)]


@pytest.mark.parametrize(("windows", "offset"), [(TORCH, 0), (SAME, 15)])
def test_the_padding_says_where_a_cell_looked(windows: list, offset: int) -> None:
    model = stack(windows)
    layer = layer_of(model, None, IMAGE)
    assert layer.stride == (16, 16) and layer.offset == (offset, offset)
    lit = jnp.zeros((6, 6)).at[3, 2].set(1.0)
    painted = maps.point(maps.resize(lit, (96, 96), layer.grid))
    assert [int(i) for i in painted] == [offset + 16 * 3, offset + 16 * 2]
    plain = maps.point(maps.resize(lit, (96, 96)))
    assert all(7 <= abs(int(a) - int(b)) <= 8 for a, b in zip(plain, painted, strict=True))


def test_plain_is_the_resizing_of_the_map() -> None:
    model = stack(TORCH)
    options = {"layer": "end", "contrastive": False}
    small = ej.attention_map(model, None, IMAGE, 0, **options)
    plain = ej.attention_map(model, None, IMAGE, 0, size="input", aligned=False, **options)
    np.testing.assert_array_equal(plain, jax.image.resize(small, (1, 96, 96), "bicubic"))


def test_a_picture_of_another_size_is_painted_at_the_same_places() -> None:
    large = ej.attention_map(
        stack(TORCH), None, IMAGE, 0, layer="end", contrastive=False, size=(288, 192)
    )
    row, column = (int(place[0]) for place in maps.point(large))
    assert abs((row + 0.5) / 3 - 48.5) <= 0.5 and abs((column + 0.5) / 2 - 32.5) <= 0.5


def test_a_turned_picture_is_painted_the_right_way_round() -> None:
    def turned(params: Any, x: jax.Array) -> jax.Array:
        return stack(TORCH)(params, x[:, ::-1])

    layer = layer_of(turned, None, IMAGE)
    assert layer.stride == (-16, 16) and layer.offset == (95, 0)
    x = jnp.zeros_like(IMAGE).at[:, 15, 32].set(1.0)  # one cell's middle, in the upper part
    assert peak(turned, x, size=None) == [5, 2]
    assert peak(turned, x) == [15, 32]
    assert peak(turned, x, aligned=False)[0] > 80  # the model's own way round


def test_where_it_is_not_known_the_map_is_a_plain_tile() -> None:
    def sorted_rows(params: Any, x: jax.Array) -> jax.Array:
        return stack(TORCH)(params, jnp.sort(x, axis=1))

    assert layer_of(sorted_rows, None, IMAGE).grid is None
    options = {"layer": "end", "contrastive": False, "size": "input"}
    painted = ej.attention_map(sorted_rows, None, IMAGE, 0, **options)
    plain = ej.attention_map(sorted_rows, None, IMAGE, 0, aligned=False, **options)
    np.testing.assert_array_equal(painted, plain)


def test_painting_works_under_jit_and_vmap() -> None:
    model = stack(TORCH)
    x = jnp.asarray(np.random.default_rng(0).random((3, 96, 96, 1), np.float32))

    def explain(x: jax.Array) -> jax.Array:
        return ej.attention_map(model, None, x, 0, layer="end", contrastive=False, size="input")

    wanted = explain(x)
    np.testing.assert_allclose(jax.jit(explain)(x), wanted, rtol=1e-5, atol=1e-8)
    one_by_one = jax.vmap(lambda one: explain(one[None])[0])(x)
    np.testing.assert_allclose(one_by_one, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_says_where_its_cells_lie(name: str) -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(convolve(x, Window(3, 2, 1, 1), Window(3, 4, 0, 1)))
        return jax.nn.relu(convolve(hidden, *(Window(3, 1, 1, 1),) * 2)).mean((1, 2)) @ params

    x, head, method = IMAGE[:, :16, :24], jnp.ones((1, 2)), methods.get(name)
    found = jax.eval_shape(lambda x: method.function(model, head, x, 0), x)
    grid = method.grid(model, head, x)
    assert grid is not None
    if found.shape == (1, 16, 24):
        assert grid == maps.Grid((1, 1), (0, 0), (16, 24))
    else:
        assert found.shape == (1, 8, 6) and grid == maps.Grid((2, 4), (0, 1), (16, 24))
