"""Networks in Flax Linen, and the import of their weights.

`names()` lists the networks; `get(name)` tells how one is built, fed and read; `load` reads its
weights from a file, a checkpoint or the hub; `convert` makes its variables from torchvision's,
timm's or Caffe's arrays. A network's own module has the details:
cnn_s, vgg, googlenet, resnet, squeezenet, mobilenet_v1, mobilenet_v2 and cifar_resnet.
"""

from . import (
    cifar_resnet,
    cnn_s,
    googlenet,
    mobilenet_v1,
    mobilenet_v2,
    resnet,
    squeezenet,
    vgg,
    weights,
)
from .cifar_resnet import CifarResNet
from .cnn_s import CNNS
from .googlenet import GoogLeNet
from .importing import convert
from .loading import load
from .mobilenet_v1 import MobileNetV1
from .mobilenet_v2 import MobileNetV2
from .preprocessing import Preprocessing
from .registry import ModelSpec, get, names
from .resnet import ResNet
from .squeezenet import SqueezeNet
from .tdam import TopDownAttention
from .vgg import VGG16

__all__ = [
    "CNNS",
    "CifarResNet",
    "GoogLeNet",
    "MobileNetV1",
    "MobileNetV2",
    "ModelSpec",
    "Preprocessing",
    "ResNet",
    "SqueezeNet",
    "TopDownAttention",
    "VGG16",
    "cifar_resnet",
    "cnn_s",
    "convert",
    "get",
    "googlenet",
    "load",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "resnet",
    "squeezenet",
    "vgg",
    "weights",
]
