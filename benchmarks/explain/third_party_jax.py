"""Haiku, Equinox, Flax NNX and Linen: the glue that makes each a function of parameters and x.

Nothing here changes a model. Imports of the packages stand inside the functions: each has its own
environment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.explain.third_party_models import (
    Explained,
    Model,
    pixels,
    register,
    sequence,
    targets,
    tokens,
)

MODELS: dict[str, Model] = {}
model = functools.partial(register, MODELS)

# Haiku


def of_haiku(forward: Callable[[Any, bool], Any], x: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    import haiku as hk
    import jax

    transformed = hk.transform_with_state(forward)
    params, state = transformed.init(jax.random.key(0), x, True)
    return lambda p, x: transformed.apply(*p, None, x, False)[0], (params, state)


def haiku_net(name: str, size: int) -> Explained:
    import haiku as hk

    # Haiku begins with a head of zeros: all scores are 0 then, whatever the picture.
    head = dict(logits_config=dict(w_init=hk.initializers.RandomNormal())) if "Res" in name else {}

    def forward(x: Any, is_training: bool) -> Any:
        return getattr(hk.nets, name)(num_classes=10, **head)(x, is_training)

    x = pixels(size)
    return *of_haiku(forward, x), x, targets()


for _name, _size, _glue in (("ResNet18", 64, "head not of zeros; "), ("MobileNetV1", 96, "")):
    model("Haiku", _name, "jax", ("dm-haiku",), _glue + "pixels 0..1")(
        functools.partial(haiku_net, _name, _size)
    )


@model("Haiku", "DeepRNN(LSTM, GRU)", "jax", ("dm-haiku",), "signed features")
def haiku_rnn() -> Explained:
    import haiku as hk

    def forward(x: Any, is_training: bool) -> Any:
        core = hk.DeepRNN([hk.LSTM(16), hk.GRU(16)])
        states, _ = hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)
        return hk.Linear(4)(states[:, -1])

    x = sequence(12, 8)
    return *of_haiku(forward, x), x, targets()


# Equinox


def of_equinox(net: Any, **options: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    import equinox as eqx
    import jax

    arrays, rest = eqx.partition(net, eqx.is_array)

    def fn(arrays: Any, x: Any) -> Any:
        return jax.vmap(functools.partial(eqx.combine(arrays, rest), **options))(x)

    return fn, arrays


@model("Equinox", "nn.MLP", "jax", ("equinox",), "signed features")
def equinox_mlp() -> Explained:
    import equinox as eqx
    import jax

    net = eqx.nn.MLP(8, 4, width_size=32, depth=2, key=jax.random.key(0))
    return *of_equinox(net), sequence(12, 8)[:, 0], targets()


@model("Equinox", "equimo VisionTransformer", "jax", ("equinox", "equimo"), "pixels 0..1")
def equimo_vit() -> Explained:
    import jax
    from equimo.models import VisionTransformer

    net = VisionTransformer(
        img_size=32, in_channels=3, dim=32, patch_size=8, num_heads=[2], depths=[2],
        num_classes=10, key=jax.random.key(0),
    )  # fmt: skip
    fn, arrays = of_equinox(net, key=jax.random.key(0), inference=True)
    return fn, arrays, pixels(32, channels_first=True), targets()


# Flax NNX, by the library's nnx_fn


@model("Flax NNX", "RNN(LSTMCell)", "jax", ("flax",), "signed features")
def nnx_lstm() -> Explained:
    from flax import nnx

    import excitation_jax as ej

    class Last(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rnn = nnx.RNN(nnx.LSTMCell(8, 16, rngs=rngs))
            self.head = nnx.Linear(16, 4, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.rnn(x)[:, -1])

    return *ej.nnx_fn(Last(nnx.Rngs(0))), sequence(12, 8), targets()


@model("Flax NNX", "mamba2-jax language model", "jax", ("flax", "mamba2-jax"), "token ids")
def mamba2() -> Explained:
    import mamba2_jax
    from flax import nnx

    import excitation_jax as ej

    config = mamba2_jax.Mamba2Config(
        vocab_size=64, hidden_size=32, state_size=8, head_dim=16, chunk_size=8, num_hidden_layers=2
    )
    fn, state = ej.nnx_fn(mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0)))
    return lambda s, x: fn(s, x)["logits"][:, -1], state, tokens(16, 64), targets()


# Google's language models, in Flax Linen


@model("Flax Linen", "gemma", "gemma", ("flax", "gemma"), "token ids; the last position's scores")
def gemma() -> Explained:
    import jax
    import jax.numpy as jnp

    # gemma.gm.nn itself does not import with this kauldron.
    from gemma.gm.nn import _config, _modules, _transformer

    config = _config.TransformerConfig(
        num_embed=64, embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16, num_kv_heads=1,
        final_logit_softcap=None, use_post_attn_norm=True, use_post_ffw_norm=True,
        use_qk_norm=True, sliding_window_size=4, transpose_gating_einsum=True,
        attention_types=(
            _modules.AttentionType.LOCAL_SLIDING, _modules.AttentionType.GLOBAL,
        ),
    )  # fmt: skip
    net = _transformer.Transformer(config=config, dtype=jnp.float32, tokens="tokens")
    ids = tokens(10, 64)
    params = net.init(jax.random.key(0), ids)

    def fn(params: Any, x: Any) -> Any:
        return net.apply(params, x, return_last_only=True).logits

    return fn, params, ids, targets()


@model(
    "Flax Linen", "RecurrentGemma", "recurrentgemma", ("flax", "recurrentgemma"),
    "token ids; the last position's scores",
)  # fmt: skip
def recurrent_gemma() -> Explained:
    import jax
    import jax.numpy as jnp
    from recurrentgemma import common
    from recurrentgemma import jax as recurrentgemma

    kinds = common.TemporalBlockType
    config = common.GriffinConfig(
        vocab_size=64, width=32, mlp_expanded_width=64, num_heads=2,
        block_types=(kinds.RECURRENT, kinds.RECURRENT, kinds.ATTENTION),
        embeddings_scale_by_sqrt_dim=True, attention_window_size=8, logits_soft_cap=30.0,
    )  # fmt: skip
    net = recurrentgemma.Griffin(config)
    ids = tokens(10, 64)
    positions = jnp.broadcast_to(jnp.arange(10), ids.shape)
    params = net.init(jax.random.key(0), ids, positions)

    def fn(params: Any, x: Any) -> Any:
        return net.apply(params, x, positions, return_cache=False)[0][:, -1]

    return fn, params, ids, targets()
