"""The networks by name, with what goes with each: input, classes, layers to read, releases.

    from excitation_jax import models

    spec = models.get("vgg16_caffe")
    model = spec.build(fully_convolutional=True)
    variables = models.convert(spec, blobs, "caffe")
    maps = ej.attention_map(model.apply, variables, x, target, layer=spec.cmwp_layer)

A name alone, such as "vgg16", is torchvision's network, which takes RGB; "_caffe" is the network
of the papers, which takes BGR.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from . import cifar_resnet, googlenet, mobilenet_v1, mobilenet_v2, resnet, squeezenet
from .cnn_s import CNNS
from .preprocessing import Preprocessing, caffe_bgr, imagenet_rgb, symmetric_rgb
from .vgg import VGG16

# ImageNet's mean colour as the VGG group and as Caffe's own networks have it. CNN-S and ResNet-50
# were trained with a mean image, which differs from its mean colour by some grey levels.
_VGG_BGR = (103.939, 116.779, 123.68)
_CAFFE_BGR = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class ModelSpec:
    """A network that the registry knows.

    Attributes:
        name: in the registry.
        family: networks of a family share their module names.
        network: makes the module, from the keywords num_classes and fully_convolutional.
        num_classes: number of the network's own classes.
        preprocessing: makes the input of a picture.
        class_names: which names the own classes have: "imagenet" (in the usual order of the
            ILSVRC synsets), "cifar10", or None.
        attention_layer: the layer that the papers read for this network, as `ej.layers` lists it;
            None where they have no such network.
        sources: releases that `convert` understands.
        load_npz: reads the variables from an .npz file of the network's own; None: there is none.
        independent: whether the classes are tags, of which several may hold.
        output_layer: the layer whose parameters make the scores, by its name in
            variables["params"]: what fine-tuning replaces.
    """

    name: str
    family: str
    network: Callable[..., nn.Module]
    preprocessing: Preprocessing
    num_classes: int = 1000
    class_names: Literal["imagenet", "cifar10"] | None = "imagenet"
    attention_layer: str | None = None
    sources: tuple[str, ...] = ()
    load_npz: Callable[[str | os.PathLike[str]], dict[str, Any]] | None = None
    independent: bool = False
    output_layer: str = "fc"

    def build(
        self,
        num_classes: int | None | Literal["own"] = "own",
        fully_convolutional: bool = False,
    ) -> nn.Module:
        """The network.

        Args:
            num_classes: number of logits; None leaves the classifier out and gives features
                (N, C); "own" is `self.num_classes`.
            fully_convolutional: scores at each position (N, h, w, num_classes), or the feature
                map, of images of any size. The variables are the same. GoogLeNet's and ResNet's
                last average slides as a window of 7x7 positions, as in the papers; the other
                networks that average globally have scores at each position of the feature map.
        """
        if num_classes == "own":
            num_classes = self.num_classes
        return self.network(num_classes=num_classes, fully_convolutional=fully_convolutional)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the images that the dense network takes."""
        return self.preprocessing.size

    @property
    def mwp_layer(self) -> str:
        """The layer to read MWP maps at: the papers', else "auto"."""
        return self.attention_layer or "auto"

    @property
    def cmwp_layer(self) -> str:
        """The layer to read c-MWP maps at: the papers', else "auto"."""
        return self.attention_layer or "auto"

    def expected(self, num_classes: int | None | Literal["own"] = "own") -> Any:
        """The variables of `build(num_classes)`, a pytree of `jax.ShapeDtypeStruct`."""
        image = jax.ShapeDtypeStruct((1, *self.input_size, 3), jnp.float32)
        return jax.eval_shape(self.build(num_classes).init, jax.random.key(0), image)

    def probabilities(self, scores: jax.Array) -> jax.Array:
        """Probabilities from logits or scores (..., num_classes), of the same shape."""
        return jax.nn.sigmoid(scores) if self.independent else jax.nn.softmax(scores)


# The papers' networks average over a window that slides (IJCV18, 6.1.1).
_GOOGLENET = functools.partial(googlenet.GoogLeNet, average_window=googlenet.WINDOW)
_RESNET = functools.partial(resnet.ResNet, average_window=resnet.WINDOW)


def _cifar(depth: int) -> ModelSpec:
    return ModelSpec(
        f"cifar_resnet{depth}",
        "cifar_resnet",
        functools.partial(cifar_resnet.CifarResNet, depth=depth),
        imagenet_rgb(resize=32, crop=None, warp=True),
        num_classes=10,
        class_names="cifar10",
        load_npz=functools.partial(cifar_resnet.load_npz, depth=depth),
        output_layer="linear",
    )


def _with_attention(depth: int) -> ModelSpec:
    return ModelSpec(
        f"resnet{depth}_tdam",
        "resnet_tdam",
        functools.partial(_RESNET, depth=depth, attention_stages=(4,)),
        imagenet_rgb(),
    )


_TORCHVISION, _WITH_TIMM, _CAFFE = ("torchvision",), ("torchvision", "timm"), ("caffe",)
_CAFFE_GOOGLENET = functools.partial(_GOOGLENET, form="caffe")
_SQUEEZENET_1_0 = functools.partial(squeezenet.SqueezeNet, version="1.0", final_padding=0)
_SQUEEZENET_1_1 = functools.partial(squeezenet.SqueezeNet, version="1.1", final_padding=0)

_SPECS = (
    ModelSpec(
        "cnn_s", "cnn_s", CNNS, caffe_bgr(_VGG_BGR), attention_layer="conv5", sources=_CAFFE,
        output_layer="fc8",
    ),
    ModelSpec(
        "vgg16", "vgg16", VGG16, imagenet_rgb(), attention_layer="pool4", sources=_WITH_TIMM,
        output_layer="fc8",
    ),
    ModelSpec(
        "vgg16_caffe", "vgg16", VGG16, caffe_bgr(_VGG_BGR), attention_layer="pool4", sources=_CAFFE,
        output_layer="fc8",
    ),
    ModelSpec(
        "googlenet", "googlenet", _GOOGLENET, imagenet_rgb(), attention_layer="pool2",
        sources=_TORCHVISION,
    ),
    ModelSpec(
        "googlenet_caffe", "googlenet", _CAFFE_GOOGLENET, caffe_bgr(_CAFFE_BGR),
        attention_layer="pool2", sources=_CAFFE,
    ),
    ModelSpec(
        "googlenet_tags", "googlenet", _CAFFE_GOOGLENET, caffe_bgr(_CAFFE_BGR),
        num_classes=googlenet.NUM_TAGS, class_names=None, attention_layer="pool2", sources=_CAFFE,
        independent=True,
    ),
    ModelSpec(
        "resnet18", "resnet", functools.partial(_RESNET, depth=18), imagenet_rgb(),
        sources=_WITH_TIMM,
    ),
    ModelSpec(
        "resnet50", "resnet", functools.partial(_RESNET, depth=50), imagenet_rgb(),
        attention_layer="layer3_5", sources=_WITH_TIMM,
    ),
    ModelSpec(
        "resnet50_caffe", "resnet", functools.partial(_RESNET, depth=50, form="caffe"),
        caffe_bgr(_VGG_BGR), attention_layer="layer3_5", sources=_CAFFE,
    ),
    ModelSpec(
        "squeezenet_v1_0", "squeezenet_v1_0", _SQUEEZENET_1_0, imagenet_rgb(),
        sources=_TORCHVISION, output_layer="conv_final",
    ),
    ModelSpec(
        "squeezenet_v1_0_caffe", "squeezenet_v1_0", squeezenet.SqueezeNet,
        squeezenet.PREPROCESSING, sources=_CAFFE, load_npz=squeezenet.load_npz,
        output_layer="conv_final",
    ),
    ModelSpec(
        "squeezenet_v1_1", "squeezenet_v1_1", _SQUEEZENET_1_1, imagenet_rgb(),
        sources=_TORCHVISION, output_layer="conv_final",
    ),
    ModelSpec(
        "squeezenet_v1_1_caffe", "squeezenet_v1_1", _SQUEEZENET_1_1,
        squeezenet.PREPROCESSING, sources=_CAFFE, output_layer="conv_final",
    ),
    ModelSpec(
        "mobilenet_v1_025", "mobilenet_v1",
        functools.partial(mobilenet_v1.MobileNetV1, width=0.25), mobilenet_v1.PREPROCESSING,
        load_npz=mobilenet_v1.load_npz, output_layer="conv_preds",
    ),
    ModelSpec(
        "mobilenet_v2", "mobilenet_v2", mobilenet_v2.MobileNetV2, symmetric_rgb(),
        load_npz=mobilenet_v2.load_npz, output_layer="logits",
    ),
    _cifar(20),
    _cifar(32),
    _with_attention(18),
    _with_attention(50),
)  # fmt: skip
_REGISTRY = {spec.name: spec for spec in _SPECS}


def names() -> tuple[str, ...]:
    """The names of all networks."""
    return tuple(_REGISTRY)


def get(name: str) -> ModelSpec:
    """The network of this name.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    if name not in _REGISTRY:
        raise ValueError(f"no network is named {name!r}; there are {', '.join(_REGISTRY)}")
    return _REGISTRY[name]
