"""Keras, Hugging Face Flax and timm: the glue that makes each a function of parameters and x.

Nothing here changes a model. Imports of the packages stand inside the functions: each has its own
environment.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
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

# Keras 3


def of_keras(net: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    def fn(params: Any, x: Any) -> Any:
        return net.stateless_call(*params, x, training=False)[0]

    values = [[v.value for v in net.trainable_variables]]
    values.append([v.value for v in net.non_trainable_variables])
    return fn, values


def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    module = importlib.import_module("keras")
    module.utils.set_random_seed(0)
    return module


def application(name: str, size: int) -> Explained:
    """Without the softmax, so that the target is a score; it makes no difference to the map."""
    make = getattr(keras().applications, name)
    net = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    # All but these two rescale inside. ResNet50V2 and MobileNetV2 are given pixels as well: their
    # preprocess_input, x / 127.5 - 1, belongs to the function then.
    fn, params = of_keras(net)
    if name in ("ResNet50V2", "MobileNetV2"):
        return lambda params, x: fn(params, x / 127.5 - 1), params, pixels(size, 255), targets()
    return fn, params, pixels(size, 255), targets()


for _name, _size, _glue in (
    ("MobileNetV2", 96, "preprocess_input inside; pixels 0..255"),
    ("MobileNetV3Small", 96, "pixels 0..255"),
    ("ConvNeXtTiny", 64, "pixels 0..255"),
    ("ResNet50V2", 64, "preprocess_input inside; pixels 0..255"),
    ("EfficientNetV2B0", 96, "pixels 0..255"),
):
    model("Keras", _name, "keras", ("keras",), _glue)(functools.partial(application, _name, _size))


def recurrent(name: str) -> Explained:
    k = keras()
    cell = getattr(k.layers, name)
    net = k.Sequential([k.layers.Input((12, 8)), cell(16), k.layers.Dense(4)])
    return *of_keras(net), sequence(12, 8), targets()


for _name in ("LSTM", "GRU"):
    model("Keras", _name, "keras", ("keras",), "signed features")(
        functools.partial(recurrent, _name)
    )


# Hugging Face Flax

HUGGING_FACE = functools.partial(
    model, "Hugging Face Flax", environment="transformers", packages=("flax", "transformers")
)
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def standardised(images: Any) -> Any:
    """What the models' processors do to pixels in 0..1."""
    return (images - 0.5) / 0.5


@HUGGING_FACE(name="BERT", glue="token ids")
def bert() -> Explained:
    from transformers import BertConfig, FlaxBertForSequenceClassification

    net = FlaxBertForSequenceClassification(BertConfig(vocab_size=64, num_labels=3, **SMALL))
    return lambda p, x: net(x, params=p).logits, net.params, tokens(10, 64), targets()


@HUGGING_FACE(name="ViT", glue="standardised inside; pixels 0..1")
def vit() -> Explained:
    from transformers import FlaxViTForImageClassification, ViTConfig

    config = ViTConfig(image_size=32, patch_size=8, num_labels=3, **SMALL)
    net = FlaxViTForImageClassification(config)

    def fn(params: Any, x: Any) -> Any:
        return net(standardised(x), params=params).logits

    return fn, net.params, pixels(32, channels_first=True), targets()


def clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, FlaxCLIPModel

    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 63}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    net = FlaxCLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    ids = tokens(8, 62)
    return net, ids.at[:, -1].set(63)  # the end of the text, where CLIP reads


@HUGGING_FACE(name="CLIP, image", glue="texts closed over; standardised inside; pixels 0..1")
def clip_image() -> Explained:
    net, ids = clip()

    def fn(params: Any, x: Any) -> Any:
        return net(ids, standardised(x), params=params).logits_per_image

    return fn, net.params, pixels(32, channels_first=True), targets(0, 1)


@HUGGING_FACE(name="CLIP, text", glue="images closed over; token ids")
def clip_text() -> Explained:
    net, ids = clip()
    images = standardised(pixels(32, channels_first=True))
    return (
        lambda p, x: net(x, images, params=p).logits_per_text, net.params, ids, targets(0, 1)
    )  # fmt: skip


@HUGGING_FACE(name="GPT-2", glue="token ids; the last position's scores")
def gpt2() -> Explained:
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    net = FlaxGPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    )
    return lambda p, x: net(x, params=p).logits[:, -1], net.params, tokens(10, 64), targets()


@HUGGING_FACE(name="T5", glue="token ids; one decoder token; jnp.clip(a_max=) given back")
def t5() -> Explained:
    import jax.numpy as jnp
    from transformers import FlaxT5ForConditionalGeneration, T5Config

    clip = jnp.clip

    def with_old_names(x: Any, min: Any = None, max: Any = None, **old: Any) -> Any:
        return clip(x, old.get("a_min", min), old.get("a_max", max))

    jnp.clip = with_old_names  # JAX has taken the old names away, and transformers uses them
    net = FlaxT5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    )
    start = jnp.zeros((2, 1), jnp.int32)

    def fn(params: Any, x: Any) -> Any:
        return net(x, decoder_input_ids=start, params=params).logits[:, -1]

    return fn, net.params, tokens(10, 64), targets()


# PyTorch, through torchax


def scoped(net: Any) -> Any:
    """Hooks that open a named scope around each module, so that layers have the modules' names."""
    import jax

    opened: list[contextlib.AbstractContextManager] = []

    def enter(name: str, *_: Any) -> None:
        opened.append(jax.named_scope(name))
        opened[-1].__enter__()

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    for path, module in net.named_modules():
        if path:
            module.register_forward_pre_hook(functools.partial(enter, path.rpartition(".")[2]))
            module.register_forward_hook(leave)
    return net


def timm_model(name: str, size: int, **options: Any) -> Explained:
    import jax.numpy as jnp
    import timm
    import torch
    import torchax

    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=10, **options).eval()
    mean, std = (jnp.array(net.default_cfg[k])[:, None, None] for k in ("mean", "std"))
    params, apply = torchax.extract_jax(scoped(net))

    def fn(params: Any, x: Any) -> Any:
        return apply(params, ((x - mean) / std,))

    return fn, params, pixels(size, channels_first=True), targets()


TINY_SWIN = dict(img_size=64, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4))
for _name, _timm, _size, _options in (
    ("RepVGG", "repvgg_a0", 64, {}),
    ("Swin", "swin_tiny_patch4_window7_224", 64, TINY_SWIN),
    ("MobileViT", "mobilevit_xxs", 64, {}),
):
    model(
        "timm through torchax", _name, "torchax", ("torch", "torchax", "timm"),
        "standardised inside; pixels 0..1",
    )(functools.partial(timm_model, _timm, _size, **_options))  # fmt: skip
