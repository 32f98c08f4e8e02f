"""Recurrent classifiers over frames and tokens, and loops in plain JAX.

The explained input has a time axis: summed over features, its MWP is Excitation Backprop for RNNs
(Bargal et al. 2018), a probability per time step.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .entry import CLASSES, Entry, Example, Target, best, filled, linen, signal, tokens

STEPS = 6


class SequenceClassifier(nn.Module):
    """A recurrent layer; the head reads its last output."""

    cell: nn.RNNCellBase
    reverse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RNN(self.cell, reverse=self.reverse, keep_order=True, name="rnn")(x)
        return nn.Dense(CLASSES, name="head")(x[:, 0 if self.reverse else -1])


class StackedBidirectional(nn.Module):
    """Two bidirectional layers, the mean over time."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in (1, 2):
            both = nn.RNN(nn.LSTMCell(8)), nn.RNN(nn.GRUCell(8))
            x = nn.Bidirectional(*both, name=f"layer{i}")(x)
        return nn.Dense(CLASSES, name="head")(x.mean(axis=1))


class FrameClassifier(nn.Module):
    """Donahue et al. 2015, which Bargal et al. explain.

    A CNN for each frame, an LSTM, and the mean of the scores of all time steps.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv1")(x))
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv2")(x))
        x = nn.relu(nn.Dense(16, name="features")(x.reshape(*x.shape[:2], -1)))
        x = nn.RNN(nn.OptimizedLSTMCell(16), name="rnn")(x)
        return nn.Dense(CLASSES, name="head")(x).mean(axis=1)


class ConvolutionalLstm(nn.Module):
    """Shi et al. 2015: an LSTM whose states are images."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RNN(nn.ConvLSTMCell(8, (3, 3)), name="rnn")(x)
        return nn.Dense(CLASSES, name="head")(x[:, -1].mean((1, 2)))


class TokenLstm(nn.Module):
    """Embedding, LSTM, the output at the last token of each sequence's own length."""

    lengths: tuple[int, ...] = (9, 12)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        lengths = jnp.array(self.lengths)
        x = nn.Embed(17, 16, name="embed")(x)
        carry, _ = nn.RNN(nn.LSTMCell(16), return_carry=True, name="rnn")(x, seq_lengths=lengths)
        return nn.Dense(CLASSES, name="head")(carry[1])


class Tagger(nn.Module):
    """Scores at every time step."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(CLASSES, name="head")(nn.RNN(nn.GRUCell(16), name="rnn")(x))


def fourth_step(rank: int) -> Target:
    """A class at the fourth of six steps: what comes later must get nothing."""

    def target(outputs: jax.Array) -> jax.Array:
        return jnp.zeros_like(outputs).at[:, 3].set(best(rank)(outputs[:, 3]))

    return target


def tagged_step() -> Example:
    return linen(Tagger(), signal(STEPS, 8), targets=(fourth_step(0), fourth_step(1)))


def recurrent(cell: nn.RNNCellBase, reverse: bool = False) -> Example:
    return linen(SequenceClassifier(cell, reverse), signal(STEPS, 8))


def plain(fn: Any, x: jax.Array, **shapes: tuple[int, ...]) -> Example:
    """A plain JAX function of a dict of weights."""
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return Example(fn, filled(weights), x)


def scanned(params: dict, x: jax.Array) -> jax.Array:
    """lax.scan over weights and over nothing: a layer for each, then one layer three times."""

    def layer(h: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jax.nn.relu(h @ w + params["bias"])
        return h, h.mean(axis=-1)

    def again(h: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.nn.relu(h @ params["again"] + x), None

    h, means = jax.lax.scan(layer, x, params["layers"])
    h, _ = jax.lax.scan(again, h, None, length=3)
    return jnp.concatenate([h, means.T], axis=-1) @ params["head"]


def looped(params: dict, x: jax.Array) -> jax.Array:
    """fori_loop: one layer four times, the input injected each time."""

    def body(i: int, h: jax.Array) -> jax.Array:
        return jax.nn.relu(h @ params["layer"] + x @ params["injected"] + params["bias"] * i)

    return jax.lax.fori_loop(0, 4, body, jax.nn.relu(x)) @ params["head"]


def branched(params: dict, x: jax.Array) -> jax.Array:
    """cond and switch on constants, as mixtures with a fixed route have them."""
    h = jax.lax.cond(
        params["head"].sum() > 0,
        lambda x: jax.nn.relu(x @ params["left"]),
        lambda x: jax.nn.relu(x @ params["right"]) * 2,
        x,
    )
    h = jax.lax.switch(
        jnp.argmax(params["bias"]) % 2,
        [lambda h: jnp.tanh(h @ params["left"]), lambda h: h @ params["right"]],
        h,
    )
    return h @ params["head"]


def routed(params: dict, x: jax.Array) -> jax.Array:
    """cond on the input itself: an early exit. The predicate only selects."""

    def one(x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ params["left"])
        deeper = jax.lax.cond(
            h.sum() > 4.0, lambda h: h, lambda h: jax.nn.relu(h @ params["right"]), h
        )
        return deeper @ params["head"]

    return jnp.stack([one(row) for row in x])


def decaying(params: dict, x: jax.Array) -> jax.Array:
    """A linear recurrence as an associative scan: h_t = a_t h_{t-1} + b_t (Gu and Dao 2023)."""
    gates = jax.nn.sigmoid(x @ params["gate"] + params["bias"])
    values = jax.nn.relu(x @ params["values"])

    def join(left: tuple, right: tuple) -> tuple:
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, states = jax.lax.associative_scan(join, (gates, values), axis=1)
    return states[:, -1] @ params["head"]


SQUARE, HEAD = (8, 8), (8, CLASSES)
ENTRIES = [
    Entry("lstm", lambda: recurrent(nn.LSTMCell(16))),
    Entry("lstm_reverse", lambda: recurrent(nn.LSTMCell(16), reverse=True)),
    Entry("gru", lambda: recurrent(nn.GRUCell(16))),
    Entry("gru_tagger", tagged_step),
    Entry("simple_rnn", lambda: recurrent(nn.SimpleCell(16))),
    Entry(
        "bidirectional_stack",
        lambda: linen(StackedBidirectional(), signal(STEPS, 8)),
        ("layer1",),
        slow=True,
    ),
    Entry(
        "frames_lstm",
        lambda: linen(FrameClassifier(), signal(STEPS, 16, 16, 3)),
        ("rnn", "features", "conv2", "conv1"),
    ),  # fmt: skip
    Entry("convolutional_lstm", lambda: linen(ConvolutionalLstm(), signal(4, 8, 8, 3))),
    Entry("token_lstm", lambda: linen(TokenLstm(), tokens(12, 17)), ("embed",), integers=True),
    Entry(
        "scan",
        lambda: plain(
            scanned, signal(8), layers=(3, 8, 8), again=SQUARE, bias=(8,), head=(11, CLASSES)
        ),
    ),
    Entry(
        "fori_loop",
        lambda: plain(looped, signal(8), layer=SQUARE, injected=SQUARE, bias=(8,), head=HEAD),
    ),
    Entry(
        "cond", lambda: plain(branched, signal(8), left=SQUARE, right=SQUARE, bias=(8,), head=HEAD)
    ),
    Entry("cond_on_input", lambda: plain(routed, signal(8), left=SQUARE, right=SQUARE, head=HEAD)),
    Entry(
        "associative_scan",
        lambda: plain(decaying, signal(8, 8), gate=SQUARE, values=SQUARE, bias=(8,), head=HEAD),
    ),
]
