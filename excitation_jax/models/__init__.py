"""Networks in Flax Linen, and the import of their weights.

squeezenet (SqueezeNet v1.0, ImageNet), mobilenet_v2 (MobileNetV2 1.0, ImageNet) and cifar_resnet
(ResNet-20, -32, ... for CIFAR), each a module with the network, `load_npz` and `preprocess`.
"""

from . import cifar_resnet, mobilenet_v2, squeezenet, weights
from .cifar_resnet import CifarResNet
from .mobilenet_v2 import MobileNetV2
from .squeezenet import SqueezeNet

__all__ = [
    "CifarResNet",
    "MobileNetV2",
    "SqueezeNet",
    "cifar_resnet",
    "mobilenet_v2",
    "squeezenet",
    "weights",
]
